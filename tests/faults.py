"""What happens to a sweep whose machines and processes die: `python tests/faults.py --kills 30`.

Trains a small sweep (`--recipe`: by the paper's masks, or by one walk with early stopping over a network of somebody's own)
undisturbed, then the same again on two Ray nodes while a random one of driver, trial actor, training worker and second node's
raylet is killed at random moments, with the same command given again whenever the driver has ended. At the end every stage must
be there once, results.csv must be what the undisturbed run wrote, bit for bit (but for its column of wall-clock seconds), and
no temporary file of a stage and no process may be left. Then come the other faults, one function each.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

import own
from disturbed import (
    MARK,
    RECIPE,
    RECIPES,
    ROOT,
    Failed,
    begin,
    check,
    checkpoints,
    finish,
    half_done,
    processes,
    same,
    say,
    wait_until,
)
from kills import killing


def full_disk(scratch: Path, undisturbed: Path) -> str:
    """The disk is full while a stage is written: it fails by name, others' records stay, and with room it goes on."""
    mount = scratch / "full"
    mount.mkdir()
    half = sum(path.stat().st_blocks for path in (undisturbed / "stages").rglob("*")) // 4  # of what all stages take; in KiB
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={half}k", "tmpfs", mount], capture_output=True).returncode
    ):
        return "skipped: needs root, and the right to mount a tmpfs"
    try:
        storage = mount / "run"
        printed = finish(storage, "--inline", status=1)
        check("No space left on device" in printed, f"the cause is not named:\n{printed}")
        done = len(list(storage.glob("stages/*/record.json")))
        check(not list(storage.glob("**/.tmp-*")), "half-written files are left")
        subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
        printed = finish(storage, "--inline")
        check(printed.count("found    ") == done, "a stage that had its record was not found again")
        same(storage, undisturbed)
        return f"{done} stages were done when it was full"
    finally:
        subprocess.run(["umount", mount], check=True)


def cut_checkpoint(scratch: Path, undisturbed: Path) -> str:
    """A checkpoint is cut in half: it is named, set aside, and its stage starts anew."""
    storage = half_done(scratch / "cut", undisturbed)

    def needed() -> list[Path]:  # a stage that is given up later is not trained again for a checkpoint that nobody wants
        return [c for c in checkpoints(storage) if (undisturbed / "stages" / c.parent.name / "record.json").exists()]

    driver = begin(storage, "--inline")
    wait_until(needed, "a checkpoint of a stage that is to be finished")
    driver.kill()
    driver.wait()
    found = min(needed())
    os.truncate(found, found.stat().st_size // 2)
    printed = finish(storage, "--inline")
    check(f"set aside as {found.name}.damaged-1" in printed, f"nothing is said of the damage:\n{printed}")
    same(storage, undisturbed)
    return "named, set aside, trained again"


def two_drivers(scratch: Path, undisturbed: Path) -> str:
    """Two drivers on one results directory: the second says who holds it and touches nothing; a dead holder's is taken over."""
    storage = half_done(scratch / "both", undisturbed)
    driver = begin(storage, "--inline")
    wait_until(lambda: checkpoints(storage), "a checkpoint")
    os.kill(driver.pid, signal.SIGSTOP)
    before = {p: p.stat().st_mtime_ns for p in storage.rglob("*")}
    printed = finish(storage, "--inline", status=2)
    check(f"is in use by process {driver.pid} on " in printed, f"the holder is not named:\n{printed}")
    check({p: p.stat().st_mtime_ns for p in storage.rglob("*")} == before, "the second driver touched something")
    driver.kill()
    driver.wait()
    finish(storage, "--inline")
    same(storage, undisturbed)
    return "refused while the first lived, taken over when it was dead"


def clock_set_back(scratch: Path, undisturbed: Path) -> str:
    """The clock is set back by a day between two runs, and runs backwards in the second."""
    storage = half_done(scratch / "clock", undisturbed)
    driver = begin(storage, "--inline")
    wait_until(lambda: list(storage.glob("stages/*/record.json")) and checkpoints(storage), "a record and a checkpoint")
    driver.kill()
    driver.wait()
    done = len(list(storage.glob("stages/*/record.json")))
    tomorrow = time.time() + 86_400
    for path in storage.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    shim = scratch / "shim"
    shim.mkdir()
    shim.joinpath("sitecustomize.py").write_text(
        "import time\nstart, real = time.time(), time.monotonic\ntime.time = lambda: start - 10 * (real() % 1e6)\n"
    )
    os.environ["PYTHONPATH"] = f"{shim}:{os.environ.get('PYTHONPATH', '')}"
    try:
        printed = finish(storage, "--inline")
    finally:
        os.environ["PYTHONPATH"] = os.environ["PYTHONPATH"].partition(":")[2]
    check(printed.count("found    ") == done and "resumes  " in printed, f"not resumed:\n{printed}")
    same(storage, undisturbed)
    return f"{done} stages found, the checkpoint resumed"


def spot_reclaim(scratch: Path, undisturbed: Path) -> str:
    """SIGTERM: to a driver that trains in its own process, and to one on Ray with its workers. Checkpoints are written at
    once."""
    told = []
    for how in (["--inline"], ["--address", "local"]):
        storage = half_done(scratch / f"term{how[0]}", undisturbed)
        driver = begin(storage, *how)
        wait_until(lambda s=storage: checkpoints(s), "a checkpoint")
        time.sleep(0.7)
        begun = time.monotonic()
        os.kill(driver.pid, signal.SIGTERM)
        driver.wait(60)
        told.append(f"{how[0]} ended in {time.monotonic() - begun:.1f} s")
        check(driver.returncode == 143, f"exit status {driver.returncode} after SIGTERM, expected 143")
        finish(storage, *how)
        same(storage, undisturbed)
    return ", ".join(told)


def main() -> int:
    """Run all, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="a fifth of them with two workers per stage")
    parser.add_argument("--recipe", choices=RECIPES, default="paper", help="what is trained")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--keep", action="store_true", help="leave the scratch directory")
    flags = parser.parse_args()
    if flags.kills < 1:
        parser.error(f"--kills {flags.kills}; expected at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ[MARK] = uuid.uuid4().hex
    os.environ[RECIPE] = flags.recipe
    scratch = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))  # short: Ray puts sockets below it
    own.write(scratch)
    os.environ["PYTHONPATH"] = f"{ROOT}:{scratch}"
    os.environ["RAY_TMPDIR"] = str(scratch / "r")
    (scratch / "r").mkdir()
    (scratch / "tmp").mkdir()
    os.environ["TMPDIR"] = str(scratch / "tmp")
    chance = random.Random(flags.seed)
    failed = ""
    try:
        with_two = flags.kills // 5
        killing(scratch, flags.kills - with_two, chance, workers=1)
        if with_two:
            killing(scratch, with_two, chance, workers=2)
        for fault in (full_disk, cut_checkpoint, two_drivers, clock_set_back, spot_reclaim):
            say(f"{fault.__name__.replace('_', ' ')}: {fault(scratch, scratch / 'undisturbed-1')}")
        wait_until(lambda: not list(processes()), "the end of all processes", 120)
        left = sorted(p.name for p in (scratch / "tmp").glob("raysp*"))
        check(not left, f"temporary files are left: {', '.join(left)}")
    except (Failed, SystemExit, KeyboardInterrupt) as error:
        failed = f"FAILED: {error}" if isinstance(error, Failed) else "ended before it was done"
    for pid, _, line in processes():
        say(f"left over: process {pid} {line[:100]}")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if failed:
        say(f"{failed}\n(kept: {scratch})")
        return 1
    if not flags.keep:
        shutil.rmtree(scratch)
    say("all well: nothing lost, nothing left over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
