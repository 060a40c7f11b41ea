"""The main sweep at its smallest, as a process to be disturbed; and whether it has ended as an undisturbed one.

For scripts that disturb it (`tests/faults.py`), which set the environment variable `MARK` for all that they start.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = {
    "paper": (
        *("--mask-method", "senet", "--d-th", "0.1", "--gb-init", "random", "--width", "4", "--epochs-scale", "0.25"),
        *("--budgets", "0.1", "0.2", "0.3", "0.4", "--gpus-per-stage", "0"),
    ),
    "walk": (
        *("--model", "small:build", "--gate-blocks", "1", "--ac-after", "1", "--epochs-scale", "0.5", "--stopping", "pareto"),
        *("--budgets", "0.1", "0.2", "0.3", "0.4", "--seeds", "0", "1", "--gpus-per-stage", "0"),
    ),
}
"""Flags of a small sweep: by the paper's masks; and by one walk, over a network of somebody's own (`own.py`), stopped early."""
FEWER = ("--budgets", "0.1", "0.3", "--seeds", "0")
"""Flags after a recipe's for less of it, where every start and pause of a stage takes many seconds."""
RECIPE = "RAYSP_DISTURBED"
"""Environment variable with the one that is used; the first unless set."""
MARK = "RAYSP_FAULTS"
"""Environment variable that all processes of a run inherit, by which those that are left are found."""
PATIENCE_S = 600.0


class Failed(Exception):
    """A promise was broken."""


def check(good: bool, what: str) -> None:
    """Raise Failed unless `good`."""
    if not good:
        raise Failed(what)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def command(storage: Path, *more: str) -> list[str]:
    """The sweep's."""
    return [
        sys.executable,
        str(ROOT / "sweeps" / "budget_sweep.py"),
        *RECIPES[os.environ.get(RECIPE, "paper")],
        "--storage",
        str(storage),
        *more,
    ]


def finish(storage: Path, *more: str, status: int = 0) -> str:
    """Run the sweep to its end and return what it printed; check its exit status."""
    done = subprocess.run(command(storage, *more), capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)
    check(done.returncode == status, f"exit status {done.returncode}, expected {status}:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def begin(storage: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the sweep."""
    with (storage.parent / f"{storage.name}.log").open("ab") as log:
        return subprocess.Popen(command(storage, *more), stdout=log, stderr=log, cwd=ROOT)


def results(storage: Path) -> list[list[str]]:
    """The rows of results.csv without seconds of training."""
    with (storage / "results.csv").open(newline="") as file:
        table = list(csv.reader(file))
    clock = table[0].index("time_s")
    return [row[:clock] + row[clock + 1 :] for row in table]


def same(storage: Path, undisturbed: Path) -> None:
    """Check that a sweep ended as the undisturbed one did, and left nothing else."""
    stages, expected = (sorted(p.name for p in (s / "stages").iterdir()) for s in (storage, undisturbed))
    check(stages == expected, f"stages {stages}, expected {expected}")
    for stage in stages:
        names, expected = (
            sorted(p.name for p in (s / "stages" / stage).iterdir() if ".damaged-" not in p.name) for s in (storage, undisturbed)
        )
        check(names == expected, f"{stage} holds {names}, expected {expected}")
    check(results(storage) == results(undisturbed), "results.csv differs from the undisturbed run's")
    files, expected = ({str(p.relative_to(s)) for p in (*s.iterdir(), *s.glob("plans/*"))} for s in (storage, undisturbed))
    # A kill while the report is written leaves such a file in the root for a while: it could be another's, who still writes it.
    files = {name for name in files if not name.startswith(".tmp-")}
    check({name for name in files if name.startswith(".")} == {".lock"}, f"hidden files among {sorted(files)}")
    check(files == expected, f"{sorted(files)} in the results directory, expected {sorted(expected)}")


def wait_until(ready: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until `ready()` is true."""
    deadline = time.monotonic() + patience_s
    while not ready():
        check(time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}")
        time.sleep(0.05)


def checkpoints(storage: Path) -> list[Path]:
    """Those of unfinished stages."""
    return list(storage.glob("stages/*/checkpoint.safetensors"))


def half_done(storage: Path, undisturbed: Path) -> Path:
    """A results directory with a copy of the undisturbed run's stages but one mask and all that is fine-tuned: a fault in what is
    left shows as much as one in the whole sweep, in half the time."""
    names = sorted(stage.name for stage in (undisturbed / "stages").iterdir())
    first_mask = next((name for name in names if name.startswith("mask-")), None)
    for name in names:
        if name != first_mask and not name.startswith("finetune-"):
            shutil.copytree(undisturbed / "stages" / name, storage / "stages" / name)
    return storage


def processes() -> Iterator[tuple[int, int, str]]:
    """Number, parent and command line of every process that this run has started."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            # A process that has given itself a title may have written over its environment; its log lies in our directory.
            marked = f"{MARK}={os.environ[MARK]}".encode() in (entry / "environ").read_bytes()
            if pid != os.getpid() and (
                marked or any(str(h.readlink()).startswith(os.environ["RAY_TMPDIR"]) for h in (entry / "fd").iterdir())
            ):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    yield pid, int(parent), line
