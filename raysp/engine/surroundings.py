"""What a process is given on its machine: CPUs, memory, directories, and how it would reach Ray.

Owns the looking, for `raysp doctor` and for every start. Refuses to change anything (`raysp.engine.standins`), to start Ray, to
import torch, and to draw conclusions (`raysp.engine.troubles`). Contract: no probe raises, whatever the machine lacks, and none
waits for long; what can't be told is None.
"""

import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from raysp.store.home import home_of

T = TypeVar("T")

LOOK_S = 2.0
"""Seconds to wait for an address that may be nobody's."""
BUSY_S = 10.0
"""The same where a sweep depends on it: a busy head answers late, and a sweep must not go elsewhere for that."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (what is made in them is private)
"""Directories with short names in which every user can make one."""
SOCKET_PATH_MOST = 103 if sys.platform == "darwin" else 107
"""Bytes of a socket's path, a limit of the system's."""
RAYS_SOCKET = "session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest path that a local Ray makes below its directory; its date, and a process number of seven digits."""
RAYS_SHARE = 0.95
"""Share of memory in use from which on Ray ends workers, unless it is told another one."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How HTTP/2, which Ray speaks, begins: RFC 9113, 3.4, and an empty frame of settings. The other side answers with its own."""


@dataclass(frozen=True, kw_only=True)
class Cpus:
    """CPUs as this process may use them."""

    machine: int
    """That the machine has."""
    affinity: int
    """That the process may run on (taskset, cpusets)."""
    quota: float | None
    """CPUs' worth of time that its control groups allow; None where they don't limit it."""

    @property
    def usable(self) -> float:
        """The least of all."""
        return min(self.affinity, self.machine, self.quota or self.machine)

    @property
    def whole(self) -> int:
        """What Ray is told, as it takes whole ones alone; by itself it would look at no affinity and take half of one for 0."""
        return max(int(self.usable), 1)


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

    @property
    def share_in_use(self) -> float | None:
        """Of what this process and its like may have, from 0 to 1."""
        sizes = [size for size in (self.total, self.limit) if size]
        return None if self.free is None or not sizes else max(1 - self.free / min(sizes), 0.0)


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
    """Where Ray by its own rules looks for what `ray start` has left, and puts its sessions."""
    sessions: Path | None
    """Where a local Ray is told to put its sessions: there too, or, where that can't be or others could exchange its sockets, in
    a directory of our own; None if there is none."""
    address: str | None
    """RAY_ADDRESS, or what `ray start` has left here; None where a local Ray would be started."""
    address_from: str
    """Where the address stands."""
    answers: bool | None
    """Whether a Ray listens at the address; None where it names no port."""
    docstrings: bool
    """Whether Python keeps them."""
    ray_ends_at: float | None
    """Share of memory in use from which on Ray ends workers (RAY_memory_usage_threshold); None where it doesn't look."""
    token: str
    """Where the token for a cluster that asks for one comes from: "in RAY_AUTH_TOKEN", "in" a file, or "" where there is none. A
    local Ray gets one of its own."""

    @property
    def why_elsewhere(self) -> str:
        """Why a local Ray can't have its sessions in Ray's own directory."""
        return unfit_for_sessions(self.ray_directory) or f"others can write to {self.ray_directory}"


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
    own: Path | None = None
    usual: float | None = RAYS_SHARE
    return Surroundings(
        cpus=cpus(root),
        memory=memory(root),
        shared=tried(lambda: _size(root / "dev" / "shm"), None),
        home=home,
        home_writable=home is not None and can_write(home),
        ray_directory=directory,
        sessions=tried(lambda: sessions_of(directory, environ), own),
        address=address,
        address_from=source,
        answers=tried(lambda: answers(address, LOOK_S), None) if address else None,
        docstrings=sys.flags.optimize < 2,
        ray_ends_at=tried(lambda: _ray_ends_at(environ), usual),
        token=tried(lambda: ray_token(environ, home), ""),
    )


def cpus(root: Path = Path("/")) -> Cpus:
    """CPUs of the machine, and as this process may use them."""
    machine = os.cpu_count() or 1
    affinity = tried(lambda: len(os.sched_getaffinity(0)), machine)  # not on every system
    quotas = [quota for path in control_groups(root, "cpu") if (quota := tried(lambda path=path: _quota(path), None))]  # type: ignore[misc]
    return Cpus(machine=machine, affinity=affinity, quota=min(quotas, default=None))


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


def can_write(directory: Path) -> bool:
    """Whether a file can be made in a directory, or, where it isn't there yet, in the nearest above it that is."""
    try:
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            return True
    except (OSError, StopIteration, ValueError):
        return False


def own_directory(above: Path) -> Path:
    """The name of a directory that is this user's alone, among others' in the same place."""
    return above / f"raysp-{os.getuid()}"


def is_own(directory: Path) -> bool:
    """Whether a directory is this user's, and nobody else's to enter."""
    found = tried(directory.lstat, None)
    return found is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def short_directory() -> Path | None:
    """A private directory with a short name, which may not be there yet; None where no place for it can be written to."""
    return next((own for above in SHORT if can_be_own(own := own_directory(Path(above)))), None)


def can_be_own(directory: Path) -> bool:
    """Whether a directory is this user's alone, or can be made so."""
    return directory.parent.is_dir() and can_write(directory) and (is_own(directory) or not os.path.lexists(directory))


def ray_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where Ray by its own rules puts its sessions, and `ray start` the address of what it started."""
    below = environ.get("RAY_TMPDIR") or (sys.platform.startswith("linux") and environ.get("TMPDIR")) or "/tmp"  # noqa: S108 (Ray's own choice)
    return Path(below).absolute() / "ray"


def unfit_for_sessions(directory: Path) -> str:
    """Why Ray can't have its sessions in a directory; nothing where it can."""
    length = len(os.fsencode(directory / RAYS_SOCKET))
    if length > SOCKET_PATH_MOST:
        return f"sockets' paths below {directory} would have {length} characters; {SOCKET_PATH_MOST} are the most"
    return "" if can_write(directory) else f"{directory} can't be written to"


def sessions_of(directory: Path, environ: Mapping[str, str]) -> Path | None:
    """Ray's directory, or what takes its place; None where there is nothing.

    Ray lets everybody write to its directory, so that another user could put sockets of his own there. It is taken only where the
    user has chosen it by RAY_TMPDIR, or where nobody else comes to it; else one is made beside it, on the same disk.
    """
    if not unfit_for_sessions(directory) and (environ.get("RAY_TMPDIR") or is_own(directory.parent)):
        return directory
    beside = own_directory(directory.parent)
    own = beside if can_be_own(beside) and not unfit_for_sessions(beside / "ray") else short_directory()
    return own and own / "ray"


def ray_address(environ: Mapping[str, str], directory: Path) -> tuple[str | None, str]:
    """Address of the cluster that a sweep without --address takes, and where it stands."""
    if environ.get("RAY_ADDRESS"):
        return environ["RAY_ADDRESS"], "RAY_ADDRESS"
    noted = directory / "ray_current_cluster"
    address = tried(noted.read_text, "").strip()  # it may be another user's
    return (address, str(noted)) if address else (None, "")


def answers(address: str, within_s: float) -> bool | None:
    """Whether a Ray listens at `host:port`, or at least what speaks its protocol; None for an address of another form that Ray
    takes.

    Args:
        address: to look at.
        within_s: seconds to wait for each part of the answer. Where a connection is refused, none passes.
    """
    match = re.fullmatch(r"\[?([^\[\]/]+)\]?:(\d{1,5})", address)
    if match is None:
        return None if address in ("auto", "local") or "://" in address else False
    try:
        with socket.create_connection((match[1], int(match[2])), timeout=within_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return True
            connection.sendall(HELLO)
            heard = b""
            while len(heard) < 4 and (more := connection.recv(64)):
                heard += more
            return heard[3:4] == b"\x04"  # a frame of settings
    except (OSError, OverflowError, UnicodeError):
        return False


def ray_token(environ: Mapping[str, str], home: Path | None) -> str:
    """Where the token for a Ray cluster comes from, never the token itself; nothing where there is none that can be read."""
    if environ.get("RAY_AUTH_TOKEN", "").strip():
        return "in RAY_AUTH_TOKEN"
    if environ.get("RAY_AUTH_TOKEN_PATH"):
        path = Path(environ["RAY_AUTH_TOKEN_PATH"])
    elif home is not None:
        path = home / ".ray" / "auth_token"
    else:
        return ""
    return f"in {path}" if path.is_file() and os.access(path, os.R_OK) else ""


def _ray_ends_at(environ: Mapping[str, str]) -> float | None:
    if environ.get("RAY_memory_monitor_refresh_ms") == "0":
        return None
    return float(environ.get("RAY_memory_usage_threshold") or RAYS_SHARE)


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
