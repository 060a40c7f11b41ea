"""Where files lie: a directory, or anything that fsspec reaches by a URL (`s3://`, `gs://`, ...).

Owns the difference between the two: parsing, whole writes, exclusive creation. Refuses to know what is written. Contract: a
directory is a `pathlib.Path`, all else a `UPath`, which reads like one; no listing is cached, because other machines write too.
"""

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec
from upath import UPath

Location = Path | UPath

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Extras of this package that bring what a protocol needs."""

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss")
"""Protocols without directories: making one could make a bucket."""


def locate(text: str | Path) -> Location:
    """From what a user gives to where it is.

    Args:
        text: a directory, with `~` for the home directory, or a URL.

    Raises:
        ValueError: an unknown protocol, or one whose package isn't installed; the message says what to do.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", str(text))
    if not match:
        return Path(text).expanduser().absolute()
    protocol = match[1].lower()
    if protocol in ("file", "local"):
        return Path(str(text)[match.end() :]).absolute()
    if protocol not in fsspec.available_protocols() or protocol in ("http", "https", "data", "memory", "reference"):
        raise ValueError(
            f"storage {text}: {protocol}:// can't be written; expected a directory, or a URL such as s3://bucket/run"
        )
    if not str(text)[match.end() :].strip("/"):
        raise ValueError(f"storage {text} names no place; expected a URL such as {protocol}://bucket/run")
    try:
        return UPath(str(text).rstrip("/"), use_listings_cache=False)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        wanted = f"pip install 'raysp[{extra}]'" if extra else "install what it names"
        raise ValueError(f"storage {text} needs a package that is not here ({error}); {wanted}, on every node") from None


def is_remote(location: Location) -> bool:
    """Whether a location is reached by a URL."""
    return not isinstance(location, Path)


def exists(path: Location) -> bool:
    """Whether anything has this name, a broken link too."""
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()


def write_atomically(path: Location, content: bytes, before_rename: Callable[[], None] = lambda: None) -> None:
    """Make `path` hold `content`: wholly, and on the disk, or not at all.

    An object store puts an object as a whole, under its own name at once. Where a URL leads to something that doesn't, a torn
    file is found by its digest when it is read.

    Args:
        path: its directory must exist, unless it is remote.
        content: the whole file.
        before_rename: called when only the last step is left; may raise to give up.
    """
    if not isinstance(path, Path):
        before_rename()
        _put(path, content, mode="overwrite")
        return
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)  # the rename itself
    finally:
        os.close(handle)


def create(path: Location, content: bytes) -> bool:
    """Write a file that must not be there yet; return whether it was made. One of several that try at once makes it."""
    try:
        if isinstance(path, Path):
            with path.open("xb") as file:
                file.write(content)
        else:
            _put(path, content, mode="create")
    except FileExistsError:
        return False
    except Exception:
        # Object stores have errors of their own for a condition that didn't hold.
        if is_remote(path) and path.exists():
            return False
        raise
    return True


def _put(path: UPath, content: bytes, mode: str) -> None:
    if path.protocol not in OBJECT_STORES:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.fs.pipe_file(path.path, content, mode=mode)
