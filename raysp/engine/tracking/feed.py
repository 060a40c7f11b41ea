"""What a sweep tells to its trackers, from the process that drives it.

Owns a process for each tracker (`raysp.engine.tracking.process`), and what is told of them. Contract: no call blocks or raises,
whatever a tracker does; a tracker in trouble is one note, and one more at the end if something is missing in it. At the end
trackers get `QUIET_S` without a sign of life (databases, which may be making their tables, don't need to give one), and `END_S`
in all; after an interruption `HURRIED_S`.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.markup import escape

from raysp.engine.tracking.interface import Ending, Run, Status
from raysp.engine.tracking.process import END_S, GRACE_S
from raysp.engine.tracking.wanted import Wanted
from raysp.store.figures import COSTS
from raysp.store.keys import key_of
from raysp.store.location import Location
from raysp.store.records import RECORD
from raysp.store.stage import Stage

QUIET_S = 15.0
"""Seconds that a tracker may take for one thing when the sweep has ended."""
HURRIED_S = 2.0
"""Seconds that all may take where the sweep was interrupted; its trackers' processes go on by themselves."""
TOLD_AFTER_S = 1.0
"""Seconds after which a line says what is waited for."""
OF_ROWS = ("test_accuracy", "val_accuracy", *COSTS, "params")
"""What of a finished model's rows is tracked, by exit."""
NOT_FIGURES = ("epoch", "epochs")

Say = Callable[[str], None]
"""Prints a line of rich's markup."""


class Feed:
    """Tells trackers what becomes of stages.

    Args:
        trackers: which; none makes every call do nothing.
        root: the results root.
        tags: of every run, such as the preset.
        say: prints notes; called from other threads.
    """

    def __init__(self, trackers: Sequence[Wanted], root: Location, tags: Mapping[str, str], say: Say) -> None:
        self._root, self._tags = root, tags
        self._couriers = []
        for tracker in trackers:
            try:
                self._couriers.append(_Courier(tracker, say))
            except OSError as error:  # no memory, too many processes
                _say_note(say, tracker, f"its process can't be started ({error}); training goes on without it")

    def opened(self, stage: Stage, name: str) -> None:
        """A stage begins, or goes on."""
        if not self._couriers:
            return
        tags = {"raysp.key": stage.key, **{f"raysp.{name}": text for name, text in self._tags.items()}}
        tags |= {f"raysp.parent.{role}": parent.label for role, parent in stage.parents.items()}
        run = Run(
            id=self._id(stage),
            name=name,
            kind=stage.name,
            label=stage.label,
            sweep=str(self._root),
            params=flat(stage.config.to_json()),
            tags={**tags, "raysp.record": str(self._root / "stages" / stage.label / RECORD)},
        )
        self._tell({"do": "open", "run": vars(run)})

    def epoch(self, stage: Stage, figures: Mapping[str, Any]) -> None:
        """A stage has ended an epoch; what it reported."""
        if self._couriers and "epoch" in figures:
            numbers = numbers_of({name: value for name, value in figures.items() if name not in NOT_FIGURES})
            self._tell({"do": "epoch", "id": self._id(stage), "epoch": int(figures["epoch"]), "figures": numbers})

    def closed(self, stage: Stage, status: Status, rows: Sequence[Mapping[str, Any]] = (), **tags: str) -> None:
        """A stage has ended; `rows` are its models'."""
        if not self._couriers:
            return
        figures = {f"{row['exit']}/{name}": float(row[name]) for row in rows for name in OF_ROWS if row.get(name) is not None}
        ending = Ending(status=status, figures=figures, tags={f"raysp.{name}": text for name, text in tags.items()})
        self._tell({"do": "close", "id": self._id(stage), "ending": vars(ending)})

    def end(self, *, hurried: bool) -> None:
        """Let the trackers take what is left, for a while."""
        for courier in self._couriers:
            courier.finish(HURRIED_S if hurried else END_S)
        for courier in self._couriers:
            courier.wait()
            if not hurried:
                courier.leave()

    def _id(self, stage: Stage) -> str:
        return key_of((stage.key, str(self._root)))[:16]

    def _tell(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        for courier in self._couriers:
            courier.send(text)


NO_FEED = Feed((), Path(), {}, print)
"""Of a run without trackers."""


@contextmanager
def feeding(trackers: Sequence[Wanted], root: Location, tags: Mapping[str, str], say: Say) -> Iterator[Feed]:
    """A feed for the length of the block; see `Feed`."""
    feed = Feed(trackers, root, tags, say)
    try:
        yield feed
    except BaseException:
        feed.end(hurried=True)
        raise
    feed.end(hurried=False)


class _Courier:
    """One tracker's process, and the threads that write to it and read from it."""

    def __init__(self, tracker: Wanted, say: Say) -> None:
        self._tracker, self._say = tracker, say
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.send(json.dumps(tracker.place))
        self._left = 0
        self._noted = self._ended = self._leaving = False
        self._heard = self._until = time.monotonic()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "raysp.engine.tracking.process", tracker.kind],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C goes to all that a terminal has started
        )
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def send(self, line: str) -> None:
        """Hand a line over."""
        self._lines.put(line)

    def finish(self, seconds: float) -> None:
        """Say that nothing more comes, and that it will be waited for so long."""
        now = time.monotonic()
        self._heard, self._until = now, now + seconds
        self._lines.put(None)

    def wait(self) -> None:
        """Wait until all is sent, or the time is up."""
        begun, told = time.monotonic(), self._until - time.monotonic() <= HURRIED_S
        quiet_s = END_S if self._tracker.is_database else QUIET_S
        while self._process.poll() is None and (now := time.monotonic()) < min(self._until, self._heard + quiet_s):
            if not told and now - begun > TOLD_AFTER_S:
                told = True
                self._say(f"waiting for {escape(str(self._tracker))} (at most {self._until - now:.0f} s)")
            time.sleep(0.05)

    def leave(self) -> None:
        """End it, whatever it does, and say what is missing then."""
        self._leaving = True
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            self._process.kill()
            self._process.wait()
        self._threads[1].join(1.0)
        if not self._ended or self._left:
            self._note("it took too long", last=True)

    def _write(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended; the reader says so
            while (line := self._lines.get()) is not None:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                answer = dict(json.loads(line))
            except (ValueError, TypeError):  # what Python's own beginning prints, such as a sitecustomize
                continue
            self._heard = time.monotonic()
            self._left = answer.get("left", self._left)
            self._ended = answer.get("ended", self._ended)
            if "trouble" in answer:
                goes_on = "" if answer["refused"] else ", and the tracker is tried again"
                self._note(f"{answer['trouble']}; training goes on{goes_on}")
        self._process.stdout.close()
        if not self._ended and not self._leaving:
            self._note(f"its process has ended with status {self._process.wait()}; training goes on")

    def _note(self, why: str, *, last: bool = False) -> None:
        """Say what the trouble is, once, and at the end what has come of it."""
        if last:
            self._say(
                f"[yellow]note[/] {escape(str(self._tracker))} lacks the end of this sweep{'' if self._noted else f': {why}'}"
            )
        elif not self._noted:
            self._noted = True
            _say_note(self._say, self._tracker, why)


def _say_note(say: Say, tracker: Wanted, why: str) -> None:
    say(f"[yellow]note[/] {escape(str(tracker))}: {escape(why)}")


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A configuration without nesting: names with dots; lists as JSON."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return found


def numbers_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """What of an epoch's figures are numbers: losses, rates; of accuracies by exit one for each, such as `val_by_exit/ac3`."""
    found = {}
    for name, value in figures.items():
        for key, each in value.items() if isinstance(value, Mapping) else (("", value),):
            if isinstance(each, (int, float)) and not isinstance(each, bool):
                found[f"{name}/{key}" if key else name] = float(each)
    return found
