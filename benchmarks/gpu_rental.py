"""A rental's clock, its processes, and what they find.

Owns what is written while `gpu.py` runs, and that no process outlives its limit. Refuses to know what is measured, or in which
order.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_table import table

HERE = Path(__file__).parent
ROOT = HERE.parent

START_S = 25.0
"""Seconds that a part takes at most before it measures anything, but for what it compiles."""

GIVE_UP_S = 5.0
"""Seconds of the end that are kept for writing."""

Found = dict[str, Any]


class Rental:
    """One run: its clock, and what it has found.

    Args:
        out: where everything is written; made if need be.
        minutes: from now.
        settings: what every part is given; `gpu.py`'s.
    """

    def __init__(self, out: Path, minutes: float, settings: Found) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.settings = out, settings
        self.started = time.monotonic()
        self.ends = self.started + 60.0 * minutes - GIVE_UP_S
        self.found: list[Found] = []

    @property
    def at(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def keep(self, **found: Any) -> None:
        """Add a figure to what was found, and write it down at once."""
        found["at_s"] = round(self.at, 1)
        self.found.append(found)
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        (self.out / "table.md").write_text(table(self.found))

    def log(self, text: str) -> None:
        """Say something, and keep it."""
        print(text, flush=True)
        with (self.out / "log.txt").open("a") as file:
            file.write(text.rstrip("\n") + "\n")

    def start(
        self, part: str, settings: Found, *, script: str = "gpu_parts.py", stdout: Any = subprocess.PIPE, **options: Any
    ) -> "subprocess.Popen[str]":
        """Start a part in a process."""
        return subprocess.Popen(
            [sys.executable, str(HERE / script), part, json.dumps(self.settings | settings)],
            stdout=stdout,
            text=True,
            env=environment(),
            start_new_session=True,
            **options,
        )

    def run(self, part: str, settings: Found, limit_s: float) -> bool:
        """Run a part to its end; keep what it finds. Returns whether it ended well.

        Args:
            part: its name in `gpu_parts.py`.
            settings: what it needs beyond the run's.
            limit_s: seconds that it may take; no more than are left.
        """
        errors = self.out / "errors.txt"
        limit = min(limit_s + START_S, self.left)
        self.log(f"[{self.at:5.0f} s] {part}, at most {limit:.0f} s")
        with errors.open("w") as stderr:
            process = self.start(part, settings, stderr=stderr)
            ended = ended_by(process, limit)
            assert process.stdout is not None
            for line in process.stdout:
                self.keep(**(json.loads(line) if line.startswith("{") else {"said": line.strip()}))
            process.wait()
            ended()
        said = errors.read_text()
        errors.unlink()
        if process.returncode:
            self.keep(failed=part, status=process.returncode, error=said[-1500:])
            self.log(f"{part} ended with status {process.returncode}:\n{said[-4000:]}")
        elif said:
            self.log(f"{part} said:\n{said[-1000:]}")
        return process.returncode == 0


def ended_by(process: "subprocess.Popen[str]", limit_s: float) -> Callable[[], None]:
    """Kill a process, and all that it has started, after so many seconds, or when what is returned is called."""

    def kill() -> None:
        timer.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(limit_s, 0.1), kill)
    timer.daemon = True
    timer.start()
    return kill


def environment() -> dict[str, str]:
    """Of a part: this checkout comes first."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]), "OMP_NUM_THREADS": "1"}
