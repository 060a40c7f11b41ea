"""What will not work in given surroundings, why, and what to do about it.

Owns the conclusions. Refuses to look at a machine (`raysp.engine.surroundings`), so that any machine can be thought of.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from raysp.engine.surroundings import Cpus, Surroundings

SOCKET_PATH_MOST = 103 if sys.platform == "darwin" else 107
"""Bytes of a socket's path, a limit of the system's."""
RAYS_SOCKET = "session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest path that a local Ray makes below its directory; its date, and a process number of seven digits."""
ROOM_BYTES = 2 << 30
"""What a local Ray with one stage of a small network takes, rounded up."""
SHARED_BYTES = 512 << 20
"""Shared memory below which Ray moves its object store to the disk, or data sets don't fit; containers get 64 MB by default."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that will not work here."""

    what: str
    because: str
    remedy: str = ""
    """What to do, where there is something."""

    def __str__(self) -> str:
        return f"{self.what}, because {self.because}" + (f"; {self.remedy}" if self.remedy else "")


def troubles(found: Surroundings) -> list[Trouble]:
    """What will not work in these surroundings."""
    return [*_of_ray(found), *_of_cpus(found.cpus), *_of_memory(found)]


def _of_ray(found: Surroundings) -> Iterator[Trouble]:
    local = "a local Ray (sweeps with --inline will)"
    if found.address is not None and found.answers is False:
        remedy = "give --address local" + ("" if found.address_from == "RAY_ADDRESS" else f", or remove {found.address_from}")
        yield Trouble(
            what="a sweep without --address",
            because=f"{found.address_from} names a Ray cluster at {found.address}, where nothing answers",
            remedy=remedy,
        )
    length = len(os.fsencode(found.ray_directory / RAYS_SOCKET))
    if length > SOCKET_PATH_MOST:
        yield Trouble(
            what=local,
            because=f"sockets' paths below {found.ray_directory} would have {length} characters; {SOCKET_PATH_MOST} are the most",
            remedy="set RAY_TMPDIR to a directory with a short name",
        )
    if not found.ray_directory_writable:
        yield Trouble(
            what=local,
            because=f"{found.ray_directory} can't be written to",
            remedy="set RAY_TMPDIR to a directory of your own",
        )
    if not found.token_usable:
        yield Trouble(
            what=local,
            because=f"its token is {found.token or 'nowhere'}, which can't be done",
            remedy="set RAY_AUTH_TOKEN_PATH to a file that can be read, or HOME to a directory that can be written to",
        )
    if found.home is None:
        yield Trouble(what="~ in paths", because="HOME isn't set, and the system knows no home of this user", remedy="set HOME")


def _of_cpus(cpus: Cpus) -> Iterator[Trouble]:
    if cpus.ray < 1:
        yield Trouble(
            what="a stage on a local Ray (with --inline it will)",
            because=f"this process may use {cpus.usable:g} CPU, and Ray counts whole ones: {cpus.ray}",
            remedy="give the container 1 CPU or more",
        )
    elif cpus.affinity < cpus.ray:
        yield Trouble(
            what="as many stages at once as fit",
            because=f"this process may run on {cpus.affinity} of {cpus.machine} CPUs, and Ray counts {cpus.ray}",
            remedy=f"give --max-concurrent {cpus.affinity}",
        )


def _of_memory(found: Surroundings) -> Iterator[Trouble]:
    free = found.memory.free
    if free is not None and free < ROOM_BYTES:
        yield Trouble(
            what="a local Ray with more than a small network",
            because=f"{gigabytes(free)} of memory are free, and Ray with one stage takes up to {gigabytes(ROOM_BYTES)}",
            remedy="free some, raise the container's limit, or give --inline",
        )
    if found.shared is not None and found.shared < SHARED_BYTES:
        yield Trouble(
            what="large data sets on Ray",
            because=f"shared memory (/dev/shm) is {gigabytes(found.shared)}, and Ray keeps them there",
            remedy="give a container --shm-size=2g or more",
        )


def gigabytes(number: int) -> str:
    """Bytes for people."""
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"
