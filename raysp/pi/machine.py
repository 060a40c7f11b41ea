"""The machine that measures: one measurement at a time, and what it is."""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = "raysp-pi.lock"
"""In the directory for temporary files; the kernel gives it back when its holder ends."""
PACKAGES = ("raysp", "spu", "jax", "jaxlib", "torch", "numpy")


@contextmanager
def alone(tell: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """Hold this machine for a measurement; waits while another measures.

    Args:
        tell: told, once, that it waits.
    """
    lock = FileLock(Path(tempfile.gettempdir()) / LOCK, mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("another measurement runs on this machine; waiting for its end, because two at once would slow each other")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


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


def versions() -> dict[str, str]:
    """Versions of all that a measured figure depends on."""
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in PACKAGES}
