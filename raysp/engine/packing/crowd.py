"""What some stages make together on one GPU, from half a minute of training them side by side.

Owns the processes that train (`raysp.engine.packing.member`), and says when they do. Refuses to decide how many stages are best
(`raysp.engine.packing.rule`). Contract: nothing is written but in a temporary directory, nothing of the data is read, no process
outlives the measuring, and a fault is told and not raised: it is no reason not to train.

The first process, the scout, tries every kind of stage for a few steps and chooses the one that takes most memory. Then one
process trains that, then two, and so on; each is held back until all that go with it are ready.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysp.engine.options import CudaGraph
from raysp.engine.packing.rule import Measured, fitting, kept, numbers
from raysp.store.stage import Stage

LIMIT_S = 120.0
"""Seconds of the whole measuring; what was measured until then counts."""
TRIAL, CHOSEN = "trial.pickle", "chosen.pickle"
"""Files for the processes, in a directory that is this user's alone."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is to be measured."""

    stages: Sequence[Stage] = ()
    """That are to be trained, ancestors first."""
    at_once: int = 0
    """Of them, at most."""
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Images per part, by the data's key."""
    num_threads: int = 1
    """CPU threads of a stage."""
    gpus: float = 1.0
    """0 computes on the CPU."""
    cuda_graph: CudaGraph = "auto"
    seconds: float = 2.0
    """That a number of stages is watched."""


def measure(trial: Trial, most: int, limit_s: float = LIMIT_S) -> Measured:
    """Train more and more stages at once, as long as that makes them faster together and their memory allows it.

    Args:
        trial: what to train.
        most: stages at once.
        limit_s: seconds for all of it.
    """
    rates: dict[int, float] = {}
    memory = room = None
    trying = 0
    try:
        with _processes(trial, most + 1, limit_s) as (scout, *others):
            room = scout.hear()["free"]
            scout.process.wait()  # what it held is free again
            for process in others:
                process.hear()  # all have started, and take no core from those that are watched
            left = [1]
            while left:
                begun, trying = trying, left.pop(0)
                for process in others[begun:trying]:
                    process.tell("prepare")
                ready = [process.hear() for process in others[begun:trying]]
                if trying == 1:
                    memory = None if room is None else room - ready[0]["free"] + ready[0]["data"]
                    left = numbers(min(most, fitting(memory, room)))[1:]
                for process in others[:trying]:
                    process.tell("go")
                rates[trying] = sum(process.hear()["rate"] for process in others[:trying])
                if kept(rates) < trying:
                    break
    except Exception as error:
        failed = f"{trying} at once failed" if rates else "it couldn't be measured"
        return Measured(rates=rates, memory=memory, room=room, failed=f"{failed} ({error})")
    return Measured(rates=rates, memory=memory, room=room)


class _Process:
    """One that trains.

    Args:
        scratch: with the trial, and where what it says of errors goes.
        number: its own; the first is the scout.
        environment: its.
    """

    def __init__(self, scratch: Path, number: int, environment: Mapping[str, str]) -> None:
        self._errors = scratch / f"{number}.txt"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raysp.engine.packing.member", str(scratch), "member" if number else "scout"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C goes to all that a terminal has started
            )

    def tell(self, word: str) -> None:
        """Say what it is to do next."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; hearing it tells why
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for what it says. Raises RuntimeError where it has ended instead."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            return said
        errors = self._errors.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(errors[-1][:200] if errors else "it took too long")

    def end(self) -> None:
        """Wherever it is."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


@contextmanager
def _processes(trial: Trial, number: int, limit_s: float) -> Iterator[list[_Process]]:
    """So many processes for the length of the block, or until the time is up."""
    with tempfile.TemporaryDirectory(prefix="raysp-crowd-") as scratch, ExitStack() as ends:
        with (Path(scratch) / TRIAL).open("wb") as file:
            pickle.dump(trial, file)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        if trial.gpus:  # one of them is enough
            environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        processes: list[_Process] = []
        for each in range(number):
            processes.append(_Process(Path(scratch), each, environment))
            ends.callback(processes[-1].end)

        def end_all() -> None:
            for process in processes:
                process.process.kill()

        timer = threading.Timer(limit_s, end_all)
        timer.daemon = True
        timer.start()
        ends.callback(timer.cancel)
        yield processes
