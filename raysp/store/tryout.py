"""Whether a place can be a results root, found out by doing there what a run does: writing, reading back, making once, renaming,
listing, removing, locking.

Owns the steps and what is said of them. Refuses to judge what a run can do without: `Trial` says what is done in another way.
Contract: nothing stays behind, where these credentials may delete and the trial isn't killed; a running sweep is not disturbed;
a root that isn't there yet is not made, its nearest directory is tried; a store that can't be reached is waited for once.
"""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from raysp.store.location import Location, create, entries, read, remove, rename, write_atomically
from raysp.store.lock import excludes
from raysp.store.remedies import remedy_of


class StorageLacks(ValueError):
    """A place can't be a results root; says what was tried, what came of it, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a place that can be a results root has."""

    locks: bool
    """The kernel's, which end with a process; without them a run renews a file instead (`raysp.store.lock`)."""
    deletes: bool
    """Whether files can be removed; without that finished stages' checkpoints stay."""

    @property
    def notes(self) -> list[str]:
        """What a user should know: what is done in another way."""
        notes = []
        if not self.deletes:
            notes.append(
                "nothing can be deleted there: checkpoints of finished stages stay, and this trial's files (let the policy allow "
                "s3:DeleteObject)"
            )
        return notes


def try_out(root: Location) -> Trial:
    """Do once what a run does.

    Args:
        root: need not exist.

    Raises:
        StorageLacks: something that a run needs doesn't work there.
    """
    place = _nearest(root) if isinstance(root, Path) else root
    path = place / f".tmp-trial-{uuid.uuid4().hex[:8]}"
    once, moved = path.with_name(f".tmp-once-{path.name[-8:]}"), path.with_name(f".tmp-moved-{path.name[-8:]}")
    made: list[Location] = []  # only that is removed: where a store can't be reached, each removal would be tried for a while
    deletes = True
    try:
        with _step(root, "a file can't be written"):
            write_atomically(path, b"one")
            made.append(path)
            write_atomically(path, b"another")
        with _step(root, "what was written can't be read"):
            _expect(read(path) == b"another", "something else comes back")
        with _step(root, "a file that must not be there yet can't be made"):
            made.append(once)
            _expect(create(once, b"me"), "it is said to be there already")
            _expect(
                not create(once, b"you") and read(once) == b"me",
                "one that is there is overwritten, so that two runs could hold the root; give a directory, or a store that knows "
                "If-None-Match",
            )
        with _step(root, "its files can't be listed"):
            _expect(path.name in {found.name for found in entries(place)}, "a file that is there isn't listed")
        if isinstance(path, Path):
            with _step(root, "a file can't be renamed"):
                made.append(moved)
                rename(path, moved)
                _expect(read(path) is None and read(moved) == b"another", "both names are there")
    finally:
        for each in made:
            try:
                remove(each)
            except OSError:
                deletes = False
    return Trial(locks=isinstance(place, Path) and _locks(place), deletes=deletes)


def _nearest(root: Path) -> Path:
    return next(path for path in (root, *root.parents) if path.exists())


def _locks(place: Path) -> bool:
    path = place / f".tmp-lock-{uuid.uuid4().hex[:8]}"
    try:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return excludes(path)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _step(root: Location, what: str) -> Iterator[None]:
    try:
        yield
    except StorageLacks as error:
        raise StorageLacks(f"storage {root}: {what}: {error}") from None
    except Exception as error:  # object stores have errors of their own
        remedy = remedy_of(error) or "; give another --storage"
        told = getattr(error, "strerror", None) or str(error)
        place = _nearest(root) if isinstance(root, Path) else root
        where = "" if place == root else f" in {place}"
        raise StorageLacks(f"storage {root}: {what}{where}: {told.removesuffix(remedy)}{remedy}") from error


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StorageLacks(otherwise)
