"""The machine that measures: one measurement at a time, and what it is."""

import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = "raysp-private-inference"
"""On Linux an abstract socket's name, which all users of a machine share; elsewhere a file for temporary files' directory. The
kernel gives either back when its holder ends."""
POLL_S = 1.0
BUSY = 0.1
"""Cores that others may use before a time is called disturbed."""


@contextmanager
def alone(tell: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """Hold this machine for a measurement; waits while another measures.

    Args:
        tell: told, once, that it waits.
    """
    release = _take()
    if release is None:
        tell("another measurement runs on this machine; waiting for its end, because two at once would slow each other")
        while (release := _take()) is None:
            time.sleep(POLL_S)
    try:
        yield
    finally:
        release()


def _take() -> Callable[[], None] | None:
    """Take the machine; returns how to give it back, or None where another has it."""
    if sys.platform != "linux":
        lock = FileLock(Path(tempfile.gettempdir()) / f"{LOCK}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock.release
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0{LOCK}")
    except OSError:
        holder.close()
        return None
    return holder.close


class Watch:
    """Tells how busy whatever else runs on this machine was meanwhile: what that does to measured times nobody knows."""

    def __init__(self) -> None:
        self._began, self._busy = time.monotonic(), _busy_s()

    def others_cores(self, own_cpu_s: float) -> float | None:
        """Cores that others kept busy since this was made; None where the system doesn't say.

        Args:
            own_cpu_s: processor seconds of the measurement itself.
        """
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        return max(0.0, (busy - self._busy - own_cpu_s) / (time.monotonic() - self._began))


def disturbed(others_cores: float | None) -> str:
    """What to say of times that were taken while other processes used so many cores; nothing where they hardly did."""
    if (others_cores or 0) <= BUSY:
        return ""
    return f"other processes kept {others_cores:.2g} cores busy meanwhile; these times are too long"


def _busy_s() -> float | None:
    """Processor seconds that all processes of this machine have used since it was started; None where the system doesn't say."""
    try:
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, Any]:
    """What a measured time depends on: processor, cores, memory, system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": model, "machine": platform.machine(), "cpus": os.cpu_count(), "memory_bytes": memory,
            "system": platform.system()}  # fmt: skip


def versions(engine: Sequence[str]) -> dict[str, str]:
    """Versions of all that a measured figure depends on; `engine` are the packages of the engine."""
    found = {"python": platform.python_version()}
    for package in ("raysp", *engine, "torch", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from its source, without being installed
            found[package] = "not installed"
    return found
