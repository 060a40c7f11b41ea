"""What will not work in given surroundings, why, and what to do about it.

Owns the conclusions. Refuses to look at a machine (`raysp.engine.surroundings`), so that any machine can be thought of. What
`raysp.engine.standins` and `raysp.engine.ray.connection` get by without is no trouble.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from raysp.engine.surroundings import Cpus, Surroundings

ROOM_BYTES = 2 << 30
"""What a local Ray with one stage of a small network takes, rounded up."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that will not work here."""

    what: str
    because: str
    remedy: str = ""
    """What to do, where there is something."""

    def __str__(self) -> str:
        return f"{self.what}, because {self.because}" + (f"; {self.remedy}" if self.remedy else "")


NO_DOCSTRINGS = Trouble(
    what="a sweep without --inline",
    because="Ray can't be imported where Python takes docstrings away (PYTHONOPTIMIZE=2, python -OO)",
    remedy="unset that, or give --inline",
)


def troubles(found: Surroundings) -> list[Trouble]:
    """What will not work in these surroundings."""
    return [*_of_ray(found), *_of_cpus(found.cpus), *_of_memory(found)]


def _of_ray(found: Surroundings) -> Iterator[Trouble]:
    if found.address is not None and found.answers is False and found.address_from == "RAY_ADDRESS":
        yield Trouble(
            what="a sweep without --address",
            because=f"RAY_ADDRESS names a Ray cluster at {found.address}, where none answers",
            remedy="give --address local, or unset it",
        )
    if not found.docstrings:
        yield NO_DOCSTRINGS
    if found.sessions is None:
        yield Trouble(
            what="a local Ray (sweeps with --inline will)",
            because=f"{found.why_elsewhere}, and no other place for its files was found",
            remedy="set RAY_TMPDIR to a short directory of your own",
        )
    if found.home is None:
        yield Trouble(what="~ in paths", because="HOME isn't set, and the system knows no home of this user", remedy="set HOME")


def _of_cpus(cpus: Cpus) -> Iterator[Trouble]:
    if cpus.usable < 1:
        yield Trouble(
            what="more than one stage at a time, each at full speed",
            because=f"this process may use {cpus.usable:.2g} of a CPU",
            remedy="give its container 1 CPU or more",
        )


def _of_memory(found: Surroundings) -> Iterator[Trouble]:
    free = found.memory.free
    if free is not None and free < ROOM_BYTES:
        yield Trouble(
            what="a local Ray with more than a small network",
            because=f"{gigabytes(free)} of memory are free, and Ray with one stage takes up to {gigabytes(ROOM_BYTES)}",
            remedy="free some, raise the container's limit, or give --inline",
        )
    share, most = found.memory.share_in_use, found.ray_ends_at
    if share is not None and most is not None and share > most:
        yield Trouble(
            what="stages on a local Ray",
            because=f"{share:.0%} of memory is in use, and Ray ends workers from {most:.0%} on",
            remedy="free some, unset RAY_memory_usage_threshold if it is set, or give --inline",
        )


def gigabytes(number: int) -> str:
    """Bytes for people."""
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"
