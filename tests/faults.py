"""What happens to a sweep whose machines and processes die: `python tests/faults.py --kills 30`.

Trains the main sweep at its smallest undisturbed, then the same again on two Ray nodes while a random one of driver, trial actor,
training worker and second node's raylet is killed at random moments, with the same command given again whenever the driver has
ended. At the end every stage must be there once, results.csv must be what the undisturbed run wrote, bit for bit (but for its
column of wall-clock seconds), and no temporary file of a stage and no process may be left. Then come the other faults, one
function each.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = [
    "--mask-method",
    "senet",
    "--d-th",
    "0.1",
    "--gb-init",
    "random",
    "--width",
    "4",
    "--epochs-scale",
    "0.25",
    "--budgets",
    "0.1",
    "0.2",
    "0.3",
    "0.4",
    "--gpus-per-stage",
    "0",
]
MARK = "RAYSP_FAULTS"
"""Environment variable that all processes of a run inherit, by which those that are left are found."""
PATIENCE_S = 600.0
TITLES = {"trial actor": "ray::ResourceTrainable", "training worker": "ray::RayTrainWorker"}
"""How Ray names the processes; Tune wraps our class in one of its own."""


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
    return [sys.executable, str(ROOT / "sweeps" / "budget_sweep.py"), *SMALL, "--storage", str(storage), *more]


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
        names = sorted(p.name for p in (storage / "stages" / stage).iterdir() if ".damaged-" not in p.name)
        check(names == ["record.json", "weights.safetensors"], f"{stage} holds {names}")
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


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A Ray cluster of two nodes of two CPUs; yields its address, and what kills the second node's raylet and brings another."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = [cluster.add_node(num_cpus=2)]

    def replace() -> None:
        os.kill(second[0].all_processes["raylet"][0].process.pid, signal.SIGKILL)
        time.sleep(1)
        with suppress(Exception):  # it is dead already; this tells the test cluster
            cluster.remove_node(second[0], allow_graceful=False)
        second[0] = cluster.add_node(num_cpus=2)

    try:
        yield cluster.address, replace
    finally:
        cluster.shutdown()


def killing(scratch: Path, kills: int, chance: random.Random, workers: int) -> None:
    """Kill `kills` times while a sweep with so many workers per stage runs, then let it end."""
    kinds = ["driver", "trial actor", "second raylet"] + (["training worker"] if workers > 1 else [])
    how = ["--workers-per-stage", str(workers), "--retries", "3"]
    undisturbed, disturbed = scratch / f"undisturbed-{workers}", scratch / f"killed-{workers}"
    begun = time.monotonic()
    finish(undisturbed, *(["--inline"] if workers == 1 else [*how, "--address", "local"]))
    say(f"undisturbed with {workers} per stage: {time.monotonic() - begun:.0f} s")
    # Enough rounds for so many kills: when a sweep has ended before they were all made, it begins anew in another directory.
    counts: Counter[str] = Counter()
    turn: list[str] = []
    rounds = restarts = 0
    with two_nodes() as (address, replace_node):
        while sum(counts.values()) < kills or not rounds:
            rounds += 1
            storage = Path(f"{disturbed}-{rounds}")
            driver = begin(storage, *how, "--address", address)
            unprovoked = 0
            while driver.poll() is None or driver.returncode != 0:
                if driver.poll() is not None:
                    restarts += 1
                    unprovoked += 1
                    check(unprovoked < 4, f"the sweep ends with status {driver.returncode} by itself; see {storage}.log")
                    driver = begin(storage, *how, "--address", address)
                if sum(counts.values()) >= kills:
                    driver.wait(PATIENCE_S)
                    continue
                turn = turn or chance.sample(kinds, len(kinds))  # each kind as often as the others
                kind = turn[-1]
                moment = time.monotonic() + chance.uniform(1.0, 8.0 if workers == 1 else 40.0)
                while time.monotonic() < moment and driver.poll() is None:
                    time.sleep(0.05)
                if driver.poll() is None and _kill(kind, driver, replace_node, chance):
                    turn.pop()
                    counts[kind] += 1
                    unprovoked = 0
                    say(
                        f"  {sum(counts.values())}/{kills}: {kind}, {len(list(storage.glob('stages/*/record.json')))} stages done"
                    )
            same(storage, undisturbed)
            say(f"round {rounds}: as undisturbed, {time.monotonic() - begun:.0f} s gone")
    check(kills < 12 or set(counts) == set(kinds), f"only {sorted(counts)} were killed")
    killed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    say(f"{workers} per stage: killed {killed} in {rounds} sweeps with {restarts} restarts; all ended as undisturbed")


def _kill(kind: str, driver: subprocess.Popen[bytes], replace_node: Callable[[], None], chance: random.Random) -> bool:
    """Kill one process of a kind; False if there is none now."""
    if kind == "second raylet":
        replace_node()
        return True
    pids = [driver.pid] if kind == "driver" else [pid for pid, _, line in processes() if line.startswith(TITLES[kind])]
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    if kind == "driver":
        driver.wait()
    return True


def half_done(storage: Path, undisturbed: Path) -> Path:
    """A results directory with a copy of the undisturbed run's stages but one mask and all that is fine-tuned: a fault in what is
    left shows as much as one in the whole sweep, in half the time."""
    names = sorted(stage.name for stage in (undisturbed / "stages").iterdir())
    first_mask = next(name for name in names if name.startswith("mask-"))
    for name in names:
        if name != first_mask and not name.startswith("finetune-"):
            shutil.copytree(undisturbed / "stages" / name, storage / "stages" / name)
    return storage


def full_disk(scratch: Path, undisturbed: Path) -> str:
    """The disk is full while a stage is written: it fails by name, others' records stay, and with room it goes on."""
    mount = scratch / "full"
    mount.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", mount], capture_output=True).returncode
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
    driver = begin(storage, "--inline")
    wait_until(lambda: checkpoints(storage), "a checkpoint")
    driver.kill()
    driver.wait()
    (found,) = checkpoints(storage)
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
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--keep", action="store_true", help="leave the scratch directory")
    flags = parser.parse_args()
    if flags.kills < 1:
        parser.error(f"--kills {flags.kills}; expected at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ[MARK] = uuid.uuid4().hex
    os.environ["PYTHONPATH"] = str(ROOT)
    scratch = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))  # short: Ray puts sockets below it
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
