"""The process that speaks to one tracker: `python -m raysp.engine.tracking.process KIND`.

Owns the order of what is sent, and what happens where a tracker doesn't answer: it is asked again after a pause, ever longer, and
what comes meanwhile waits here. Contract: reads from its standard input the tracker's place,
which a command line would show to all, then what to send, a JSON object a line, until that ends; then what is still to be sent
is tried once more, and runs that are open are closed as interrupted. After `END_S` it ends in any case. Says on its standard
output, in the same form, what is to be told: `trouble`, why something wasn't taken, and `left`, how many lines wait.
"""

import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

from raysp.engine.tracking.interface import Ending, Refused, Run, Tracker
from raysp.engine.tracking.wanted import hidden

END_S = 30.0
"""Seconds that a tracker may take for all that is left when the sweep has ended; then this process does, whatever hangs in it."""
GRACE_S = 2.0
"""Seconds for it to roll back what it is writing, once it is told to end (SIGTERM)."""
LONGEST_PAUSE_S = 60.0
"""Seconds at most between two tries to reach a tracker."""
SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)
"""In the names of variables of the environment whose values are never told."""
LONGEST_WORD = 200
"""Signs of an error that are told."""
_TRACKERS = {"mlflow": "Mlflow", "wandb": "Wandb", "tensorboard": "TensorBoard"}


class Sender:
    """Sends lines to a tracker, in order.

    Args:
        make: makes the tracker, which may fail as any call of it may.
        tell: takes what is to be told.
    """

    def __init__(self, make: Callable[[], Tracker], tell: Callable[[dict[str, Any]], None]) -> None:
        self._make, self._tell = make, tell
        self._tracker: Tracker | None = None
        self._waiting: deque[dict[str, Any]] = deque()
        self._open: dict[str, Run] = {}
        self._last: dict[str, int] = {}
        """The last epoch that a run holds."""
        self._pause_s, self._due = 1.0, 0.0

    def run(self, lines: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
        """Send what comes, until None does."""
        while True:
            wait_s = max(self._due - time.monotonic(), 0.0) if self._waiting else None
            try:
                line = lines.get(timeout=wait_s)
            except queue.Empty:
                self._send(patient=True)
                continue
            if line is None:
                break
            self._waiting.append(line)
            if time.monotonic() >= self._due:
                self._send(patient=True)
        self._send(patient=False)
        if not self._waiting:
            for run in list(self._open.values()):
                self._waiting.append({"do": "close", "id": run.id, "ending": {"status": "interrupted"}})
            self._send(patient=False)
        self._tell({"left": len(self._waiting), "ended": True})

    def _send(self, *, patient: bool) -> None:
        """Send what waits, up to the first line with which the tracker can't be reached; without patience that is the end."""
        while self._waiting:
            try:
                self._act(self._waiting[0])
            except Refused as error:
                self._tell({"trouble": _said(error), "refused": True})
            except Exception as error:
                self._tell({"trouble": _said(error), "refused": False})
                self._due = time.monotonic() + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                return
            self._pause_s = 1.0
            self._waiting.popleft()
            if not patient:
                self._tell({"left": len(self._waiting)})

    def _act(self, line: dict[str, Any]) -> None:
        self._tracker = self._tracker or self._make()
        if line["do"] == "open":
            run = Run(**line["run"])
            last = self._tracker.open(run)
            self._last[run.id] = max(last, self._last.get(run.id, 0))
            self._open[run.id] = run
        elif opened := self._open.get(line["id"]):  # else it wasn't taken
            if line["do"] == "close":
                self._tracker.close(opened, Ending(**line["ending"]))
                del self._open[opened.id]
            elif line["epoch"] > self._last[opened.id]:  # a resumed stage trains its last epochs once more
                self._tracker.epoch(opened, line["epoch"], line["figures"])
                self._last[opened.id] = line["epoch"]


def _said(error: Exception) -> str:
    """An error in one line, without what is secret."""
    text = hidden(" ".join(str(error).split()) or type(error).__name__)
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, "...")
    return text[:LONGEST_WORD]


def _make(kind: str, place: str) -> Tracker:
    made: Tracker = getattr(import_module(f"raysp.engine.tracking.to_{kind}"), _TRACKERS[kind])(place)
    return made


def _read(lines: "queue.SimpleQueue[dict[str, Any] | None]", stream: TextIO) -> None:
    for line in stream:
        lines.put(json.loads(line))
    lines.put(None)
    time.sleep(END_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def main() -> None:
    """See the module."""
    _, kind = sys.argv
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    source = os.fdopen(os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)  # packages, and processes that they start, print what they please
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    place = json.loads(source.readline())
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines, source), daemon=True).start()

    def tell(what: dict[str, Any]) -> None:
        try:
            answers.write(json.dumps(what) + "\n")
        except OSError:  # who started this is gone; what it said is sent all the same
            os.dup2(nowhere, answers.fileno())

    Sender(lambda: _make(kind, place), tell).run(lines)


if __name__ == "__main__":
    main()
