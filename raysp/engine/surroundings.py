"""What a process is given on its machine: CPUs, memory, directories, and how it would reach Ray.

Owns the looking. Refuses to change anything, to start Ray, to import torch, and to draw conclusions (`raysp.engine.troubles`).
Contract: no probe raises, whatever the machine lacks, and none waits for long; what can't be told is None.
"""

import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 2.0
"""Seconds to wait for an address that may be nobody's."""


@dataclass(frozen=True, kw_only=True)
class Cpus:
    """CPUs as this process may use them."""

    machine: int
    """That the machine has."""
    affinity: int
    """That the process may run on (taskset, cpusets)."""
    quota: float | None
    """CPUs' worth of time that its control groups allow; None where they don't limit it."""
    ray: int
    """That a local Ray counts: it looks at no affinity, and drops what a quota has behind the point."""

    @property
    def usable(self) -> float:
        """The least of all."""
        return min(self.affinity, self.machine, self.quota or self.machine)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes."""

    total: int | None
    available: int | None
    limit: int | None
    """Of the control groups; None where they set none."""
    used: int | None
    """Of that limit."""

    @property
    def free(self) -> int | None:
        """What this process can still have."""
        rest = None if self.limit is None or self.used is None else max(self.limit - self.used, 0)
        known = [amount for amount in (self.available, rest if rest is not None else self.limit) if amount is not None]
        return min(known, default=None)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """All that was found."""

    cpus: Cpus
    memory: Memory
    shared: int | None
    """Bytes of /dev/shm; None where there is none."""
    home: Path | None
    home_writable: bool
    ray_directory: Path
    """Where a local Ray puts its sessions."""
    ray_directory_writable: bool
    address: str | None
    """RAY_ADDRESS, or what `ray start` has left here; None where a local Ray would be started."""
    address_from: str
    """Where the address stands."""
    answers: bool | None
    """Whether anything listens at the address; None where it names no port."""
    token: str
    """Where Ray's token comes from: `RAY_AUTH_TOKEN`, a file, "to be written to" a file, or "" where none is asked for."""
    token_usable: bool


def look(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Surroundings:
    """Look around.

    Args:
        root: what /proc, /sys and /dev are looked for in.
        environ: the environment.
    """
    home = tried(lambda: home_of(environ), None)
    directory = ray_directory(environ)
    nothing: tuple[str | None, str] = (None, "")
    address, source = tried(lambda: ray_address(environ, directory), nothing)
    token, usable = tried(lambda: ray_token(environ, home), ("", True))
    return Surroundings(
        cpus=cpus(root),
        memory=memory(root),
        shared=tried(lambda: _size(root / "dev" / "shm"), None),
        home=home,
        home_writable=home is not None and can_write(home),
        ray_directory=directory,
        ray_directory_writable=can_write(directory),
        address=address,
        address_from=source,
        answers=tried(lambda: answers(address), None) if address else None,
        token=token,
        token_usable=usable,
    )


def cpus(root: Path = Path("/")) -> Cpus:
    """CPUs of the machine, and as this process may use them."""
    machine = os.cpu_count() or 1
    affinity = tried(lambda: len(os.sched_getaffinity(0)), machine)  # not on every system
    quotas = [quota for path in control_groups(root, "cpu") if (quota := tried(lambda path=path: _quota(path), None))]  # type: ignore[misc]
    ray = tried(lambda: _rays_count(root / "sys" / "fs" / "cgroup"), None)
    return Cpus(
        machine=machine,
        affinity=affinity,
        quota=min(quotas, default=None),
        ray=machine if ray is None else int(ray),
    )


def memory(root: Path = Path("/")) -> Memory:
    """Memory of the machine, and the control groups' limit."""
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB$", tried(lambda: (root / "proc" / "meminfo").read_text(), ""), re.MULTILINE))
    total, available = (int(told[name]) * 1024 if name in told else None for name in ("MemTotal", "MemAvailable"))
    limits: list[tuple[int, int | None]] = []
    for path in control_groups(root, "memory"):
        limit = _number(path / "memory.max") or _number(path / "memory.limit_in_bytes")
        if limit and (total is None or limit < total):  # version 1 writes a huge number where there is none
            limits.append((limit, tried(lambda path=path: _used(path), None)))  # type: ignore[misc]
    limit, used = min(limits, key=lambda pair: pair[0], default=(None, None))
    return Memory(total=total, available=available, limit=limit, used=used)


def control_groups(root: Path, controller: str) -> list[Path]:
    """This process' control groups of one controller, of version 2 and of version 1, the innermost first.

    A container may see its own group's number, but not the directories above the mount; what isn't there is left out.
    """
    mount = root / "sys" / "fs" / "cgroup"
    found: list[Path] = []
    for line in tried(lambda: (root / "proc" / "self" / "cgroup").read_text(), "").splitlines():
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if number == "0" and not names:
            tops = [mount, mount / "unified"]
        elif controller in names.split(","):
            tops = [mount / names, mount / controller]
        else:
            continue
        inner = PurePosixPath(group.lstrip("/"))
        found += [top / each for top in tops for each in (inner, *inner.parents)]
    return [path for path in dict.fromkeys(found) if ".." not in path.parts and tried(path.is_dir, False)]


def home_of(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The home directory; None where nobody knows it."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    with suppress(ImportError, KeyError):
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    return None


def can_write(directory: Path) -> bool:
    """Whether a file can be made in a directory, or, where it isn't there yet, in the nearest above it that is."""
    try:
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            return True
    except (OSError, StopIteration, ValueError):
        return False


def ray_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where a local Ray puts its sessions."""
    below = environ.get("RAY_TMPDIR") or (sys.platform.startswith("linux") and environ.get("TMPDIR")) or "/tmp"  # noqa: S108 (Ray's own choice)
    return Path(below) / "ray"


def ray_address(environ: Mapping[str, str], directory: Path) -> tuple[str | None, str]:
    """Address of the cluster that a sweep without --address takes, and where it stands."""
    if environ.get("RAY_ADDRESS"):
        return environ["RAY_ADDRESS"], "RAY_ADDRESS"
    noted = directory / "ray_current_cluster"
    return (noted.read_text().strip() or None, str(noted)) if noted.is_file() else (None, "")


def answers(address: str) -> bool | None:
    """Whether anything listens at `host:port`; None for an address of another form that Ray takes."""
    match = re.fullmatch(r"\[?([^\[\]/]+)\]?:(\d{1,5})", address)
    if match is None:
        return None if address in ("auto", "local") or "://" in address else False
    try:
        socket.create_connection((match[1], int(match[2])), timeout=LOOK_S).close()
    except (OSError, OverflowError, UnicodeError):
        return False
    return True


def ray_token(environ: Mapping[str, str], home: Path | None) -> tuple[str, bool]:
    """Where Ray's token comes from, never the token itself, and whether a local Ray can have it."""
    if environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return "", True
    if environ.get("RAY_AUTH_TOKEN"):
        return "in RAY_AUTH_TOKEN", True
    if environ.get("RAY_AUTH_TOKEN_PATH"):
        path = Path(environ["RAY_AUTH_TOKEN_PATH"])
        return f"in {path}", path.is_file() and os.access(path, os.R_OK)
    if home is None:
        return "", False
    path = home / ".ray" / "auth_token"
    if path.is_file():
        return f"in {path}", os.access(path, os.R_OK)
    return f"to be written to {path}", can_write(path.parent)


def tried(probe: Callable[[], T], otherwise: T) -> T:
    """What a probe finds, or something else where it fails."""
    try:
        return probe()
    except Exception:  # an odd machine is no reason to fail
        return otherwise


def _size(directory: Path) -> int:
    stats = os.statvfs(directory)
    return stats.f_frsize * stats.f_blocks


def _number(path: Path) -> int | None:
    """A control group's file of one number; None where it isn't there, or says "max"."""
    return tried(lambda: int(path.read_text()), None)


def _used(path: Path) -> int | None:
    """Bytes that one control group has in use, without what is kept of files and can go."""
    used = _number(path / "memory.current")
    used = _number(path / "memory.usage_in_bytes") if used is None else used
    told = tried(lambda: (path / "memory.stat").read_text(), "")
    kept = {name: int(size) for name, size in re.findall(r"^(?:total_)?((?:in)?active_file) (\d+)$", told, re.MULTILINE)}
    return None if used is None else max(used - sum(kept.values()), 0)


def _quota(path: Path) -> float | None:
    """CPUs' worth of time that one control group allows."""
    if (both := path / "cpu.max").exists():
        quota, period = both.read_text().split()
    else:
        quota, period = (path / "cpu.cfs_quota_us").read_text(), (path / "cpu.cfs_period_us").read_text()
    return None if quota == "max" or float(quota) <= 0 else float(quota) / float(period)


def _rays_count(mount: Path) -> float | None:
    """CPUs by Ray's rule, which looks at the mount's own files alone: a quota, and version 1's set of CPUs."""
    groups = [mount / "cpu"] if (mount / "cpu" / "cpu.cfs_quota_us").exists() else [mount]
    quota = tried(lambda: _quota(groups[0]), None)
    ranges = tried(lambda: (mount / "cpuset" / "cpuset.cpus").read_text().strip(), "")
    bounds = [part.partition("-") for part in ranges.split(",") if part]
    in_set = sum(int(last or first) - int(first) + 1 for first, _, last in bounds) or None
    return min((count for count in (quota, in_set) if count is not None), default=None)
