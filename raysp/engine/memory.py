"""Whether a sweep's images fit into memory, told before they are decoded.

Owns the comparison. Contract: only the decoded images themselves are counted, since whatever else is needed comes on top; swap is
not counted as memory; where free memory can't be told, nothing is refused.
"""

import resource
from collections.abc import Iterable
from pathlib import Path

from raysp.data.sources import DataError, Source, part_sizes
from raysp.engine.surroundings import memory, tried
from raysp.engine.troubles import gigabytes


def check_memory(sources: Iterable[Source]) -> None:
    """Refuse images that don't fit.

    Raises:
        DataError: their bytes are more than this process can have.
    """
    free = free_memory()
    needed, told = 0, []
    for source in sources:
        config = source.config
        sizes = part_sizes(source)
        images = sum(size for part, size in sizes.items() if part != "val" or config.selection == "val")
        shape = config.channels, config.image_size, config.image_size
        needed += images * config.channels * config.image_size**2
        told.append(f"{images:,} images of {' x '.join(map(str, shape))} bytes ({config.name})")
    if free is not None and needed > free:
        raise DataError(
            f"{' and '.join(told)} take {gigabytes(needed)} of memory, and {gigabytes(free)} can be had; "
            "give a smaller --image-size, fewer images, or more memory (of the machine, its container, or ulimit -v)"
        )


def free_memory() -> int | None:
    """Bytes that this process can still have, by the machine, its control groups and `ulimit -v`; None if that isn't known."""
    known = [amount for amount in (tried(lambda: memory().free, None), tried(_left_by_ulimit, None)) if amount is not None]
    return min(known, default=None)


def _left_by_ulimit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return max(limit - pages * resource.getpagesize(), 0)
