"""A small sweep in odd surroundings, two at a time: `python tests/surroundings.py --pairs 10`.

Draws pairs of surroundings that people have (half a CPU, no home, a cluster that is gone, ...), makes each pair at once in
namespaces of its own, and runs a small sweep on a local Ray there. It must end well, or, where an address was given at which
nobody is, or no memory is left, with status 2, one sentence and no traceback, in time; no process may be left. Needs root, or a
system that lets users make namespaces; says so where it has neither. Nothing outside new directories is touched.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
SWEEP = ["sweeps/budget_sweep.py", "--width", "4", "--budgets", "0.1", "--epochs-scale", "0.05", "--gpus-per-stage", "0"]
REFUSED_WITHIN_S = 90.0
"""Most of them for importing torch and Ray on a busy machine, beside other checks."""
DONE_WITHIN_S = 240.0
STRANGER = 54321
"""A user that no system knows."""
MARK = "RAYSP_SURROUNDINGS"
"""Environment variable that all processes of a run inherit, by which those that are left are found."""
LEFT_AFTER_S = 20.0
RAYS = 'mkdir -p "${RAY_TMPDIR:-$TMPDIR}/ray" && cd "${RAY_TMPDIR:-$TMPDIR}/ray"'


@dataclass(frozen=True, kw_only=True)
class Odd:
    """One surrounding."""

    name: str
    setup: str = "true"
    """Shell code that makes it, as root of a mount namespace."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables; an empty one is taken away, and {work} is the run's directory."""
    prefix: tuple[str, ...] = ()
    """What the sweep is started by."""
    refused: bool = False
    """Whether a sweep is right to refuse."""


GROUP = "([ -e /sys/fs/cgroup/ours ] || (mount -t tmpfs none /sys/fs/cgroup && touch /sys/fs/cgroup/ours)) && cd /sys/fs/cgroup"
SURROUNDINGS = [
    Odd(name="a cluster file that is left over", setup=f"({RAYS} && echo 127.0.0.1:1 > ray_current_cluster)"),
    Odd(name="a cluster file that names something else", setup=f'({RAYS} && echo "$SILENT" > ray_current_cluster)'),
    Odd(name="half a CPU", setup=f'({GROUP} && echo "50000 100000" > cpu.max)'),
    Odd(
        name="hardly any memory",
        setup=f"({GROUP} && echo 400000000 > memory.max && echo 300000000 > memory.current && echo 'anon 1' > memory.stat)",
        refused=True,
    ),
    Odd(name="one core of many", prefix=("taskset", "-c", str(min(getattr(os, "sched_getaffinity", lambda pid: {0})(0))))),
    Odd(
        name="no home, no name",
        environment={"HOME": "", "USER": "", "LOGNAME": ""},
        prefix=("unshare", "-U", f"--map-user={STRANGER}", f"--map-group={STRANGER}"),
    ),
    Odd(name="a home that can't be written", setup='mount -t tmpfs -o ro none "$HOMES"', environment={"HOME": "{work}/home"}),
    Odd(name="a long TMPDIR", environment={"RAY_TMPDIR": "", "TMPDIR": "{work}/" + "x" * 90}),
    Odd(name="another's /tmp/ray", setup=f"({RAYS} && mount -t tmpfs -o ro none .)"),
    Odd(name="a small /dev/shm", setup="mount -t tmpfs -o size=64m none /dev/shm"),
    Odd(
        name="a proxy that leads nowhere",
        environment=dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    ),
    Odd(name="an ASCII terminal", environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
    Odd(name="a token of another day", environment={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}),
    Odd(name="a token's file that is gone", environment={"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}),
    Odd(name="an address where nobody is", environment={"RAY_ADDRESS": "127.0.0.1:1"}, refused=True),
]


def namespace() -> list[str] | None:
    """How a mount namespace is begun here; None where it can't be."""
    for how in (["unshare", "-m"], ["unshare", "-r", "-m"]):
        with suppress(OSError):
            if not subprocess.run([*how, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
                return [*how, "--propagation", "private"]
    return None


def run(pair: tuple[Odd, Odd], begun: list[str], work: Path, silent: str) -> tuple[int, str, float]:
    """The sweep in two surroundings at once: its exit status, what it printed, and seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SILENT": silent, "HOMES": str(work / "home")}
    for name in [name for name in environment if name.startswith("RAY_")]:
        del environment[name]
    environment |= {"RAY_TMPDIR": str(work / "t"), "TMPDIR": str(work / "tmp"), "HOME": str(work), MARK: str(work)}
    for odd in pair:
        environment |= {name: value.format(work=work) for name, value in odd.environment.items()}
    environment = {name: value for name, value in environment.items() if value}
    for directory in (work / "home", Path(environment["TMPDIR"])):
        directory.mkdir(exist_ok=True)
    setup = " && ".join(odd.setup for odd in pair)
    prefix = [word for odd in sorted(pair, key=lambda odd: "unshare" in odd.prefix) for word in odd.prefix]
    command = [*prefix, sys.executable, *SWEEP, "--storage", str(work / "run")]
    since = time.monotonic()
    limit = REFUSED_WITHIN_S if any(odd.refused for odd in pair) else DONE_WITHIN_S
    with subprocess.Popen(
        [*begun, "bash", "-c", f'{setup} && exec "$@"', "-", *command],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            return -1, f"{printed}\n(not ended after {limit:.0f} s)", time.monotonic() - since
    return process.returncode, printed, time.monotonic() - since


def fault(pair: tuple[Odd, Odd], status: int, printed: str) -> str:
    """What is wrong with how the sweep ended; nothing where it is right."""
    expected = 2 if any(odd.refused for odd in pair) else 0
    if status != expected:
        return f"exit status {status}, expected {expected}"
    if "Traceback" in printed:
        return "a traceback"
    if status == 2 and [line[:7] for line in printed.splitlines()].count("error: ") != 1:
        return "not one sentence that begins with error:"
    return ""


def left(work: Path) -> list[int]:
    """Processes of a run that haven't ended."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and f"{MARK}={work}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def ended(work: Path) -> list[int]:
    """Wait for the end of a run's processes; ends those that are left, and returns them."""
    deadline = time.monotonic() + LEFT_AFTER_S
    while (found := left(work)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return found


def main() -> int:
    """Run all, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10, help="how many")
    parser.add_argument("--seed", type=int, help="of the choice; drawn and printed unless given")
    flags = parser.parse_args()
    begun = namespace()
    if begun is None:
        print("skipped: needs root, or the right to make namespaces and to mount in them")
        return 0
    seed = random.SystemRandom().randrange(10_000) if flags.seed is None else flags.seed
    print(f"--seed {seed}", flush=True)
    pairs = list(itertools.combinations(SURROUNDINGS, 2))
    faults, since = 0, time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        silent = f"127.0.0.1:{server.getsockname()[1]}"
        for pair in random.Random(seed).sample(pairs, min(flags.pairs, len(pairs))):
            work = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # short: Ray puts sockets below it
            strangers = Path(f"/tmp/raysp-{STRANGER}")
            was_there = strangers.exists()
            status, printed, took = run(pair, begun, work, silent)
            wrong = fault(pair, status, printed)
            if processes := ended(work):
                wrong = wrong or f"{len(processes)} processes are left"
            print(f"{'FAILED' if wrong else 'fine':7}{took:6.1f} s  status {status}  {pair[0].name} + {pair[1].name}", flush=True)
            if wrong:
                faults += 1
                print(f"{wrong}:\n{printed}", flush=True)
            shutil.rmtree(work, ignore_errors=True)
            if not was_there:
                shutil.rmtree(strangers, ignore_errors=True)
    print(f"{faults} of {flags.pairs} pairs failed" if faults else f"all well after {time.monotonic() - since:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
