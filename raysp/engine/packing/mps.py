"""NVIDIA's MPS for the length of a block: it lets several processes compute on one GPU at the same time, and not in turns.

Owns starting and ending it on this machine. Refuses to touch a daemon that somebody else has started. Contract: what was started
is ended however this process ends, by SIGKILL too; that is done by a keeper, a process that waits for it. That MPS works is
tried, not believed: a container may let it start and nobody use it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
START_S = 60.0
"""Seconds that starting, and then trying, may take."""
END_S = 30.0
"""Seconds that ending may take; the keeper goes on if it takes longer."""
LONGEST = 60
"""Characters of a directory for MPS: it makes sockets there, and their paths are limited."""

KEEPER = """
trap '' HUP INT TERM
read -r _
echo 'quit -t 10' | "$1"
rm -rf -- "$2"
"""
"""Waits until nobody holds its input open any more, then ends the daemon; by force if it serves someone 10 seconds later."""

PROBE = """
import ctypes, sys
cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
if code := cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0):
    sys.exit(f"CUDA's error {code}")
"""
"""Uses a GPU, without torch, which takes seconds to import."""


@dataclass(frozen=True)
class Mps:
    """What became of it."""

    is_on: bool
    said: str
    """In a few words, e.g. "MPS started", or "without MPS: " and the reason."""


@contextmanager
def started() -> Iterator[Mps]:
    """Let processes that the block starts compute at the same time, where that can be had. The environment tells them."""
    control = shutil.which(CONTROL)
    if control is None:
        yield _without(f"{CONTROL} isn't installed")
        return
    if answers():
        yield Mps(True, "MPS was running")
        return
    named = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
    with _kept(control, named) as (directory, environment):
        reason = _start(control, directory, environment) or _try(directory, environment)
        before = {name: os.environ.get(name) for name in named}
        if not reason:
            os.environ.update({name: environment[name] for name in named})
            try:
                yield Mps(True, "MPS started")
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
    if reason:
        yield _without(reason)


def answers() -> bool:
    """Whether a daemon answers that processes of this machine would use as they are."""
    control = shutil.which(CONTROL)
    if control is None:
        return False
    try:
        done = subprocess.run([control], input="get_server_list\n", capture_output=True, text=True, timeout=START_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and "annot find" not in done.stdout + done.stderr


def _without(reason: str) -> Mps:
    return Mps(False, f"without MPS: {reason}")


@contextmanager
def _kept(control: str, named: tuple[str, str]) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A directory for a daemon, and the environment that leads to it; after the block both are gone."""
    below = tempfile.gettempdir()
    directory = Path(tempfile.mkdtemp(prefix="raysp-mps-", dir=below if len(below) < LONGEST else "/tmp"))  # noqa: S108 (private)
    environment = os.environ | dict.fromkeys(named, str(directory))
    quiet = subprocess.DEVNULL
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, "keeper", control, str(directory)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=quiet,
        stderr=quiet,
        start_new_session=True,  # Ctrl-C goes to all that a terminal has started
    )
    try:
        yield directory, environment
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(END_S)


def _start(control: str, directory: Path, environment: Mapping[str, str]) -> str:
    """Start a daemon; why it didn't, or nothing."""
    # Processes name the machine's GPUs, whichever of them this one may see.
    every_gpu = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    fault = _fault([control, "-d"], every_gpu, directory / "start.txt")
    return fault and f"it didn't start ({fault})"


def _try(directory: Path, environment: Mapping[str, str]) -> str:
    """Use a GPU; why that can't be, or nothing."""
    fault = _fault([sys.executable, "-c", PROBE], environment, directory / "try.txt")
    return fault and f"it started, but can't be used ({fault})"


def _fault(command: list[str], environment: Mapping[str, str], log: Path) -> str:
    """Run a command; where it failed what it said last, else nothing."""
    with log.open("w") as file:  # a pipe would be held open by a daemon
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=START_S,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"{type(error).__name__}: {error}"
    said = log.read_text(errors="replace").strip().splitlines()
    return (said or [f"status {done.returncode}"])[-1][:200] if done.returncode else ""
