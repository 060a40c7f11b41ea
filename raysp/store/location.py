"""Where files lie: a directory, or anything that fsspec reaches by a URL (`s3://`, `gs://`, ...).

Owns the difference between the two: parsing, reading, whole writes, exclusive creation, and what goes wrong. Refuses to know what
is written. Contract: a directory is a `pathlib.Path`, all else a `UPath`, which reads like one; no listing is cached, because
other machines write too. "Not there" is said only of what isn't; whatever else keeps a file from being read or written raises.
"""

import errno
import math
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import fsspec
from upath import UPath

from raysp.store.extras import remedy_for
from raysp.store.paths import user_path
from raysp.store.remedies import remedy_of

Location = Path | UPath
T = TypeVar("T")

UNFINISHED_NAME = re.compile(r"\.tmp-.+-[0-9a-f]{8}", re.DOTALL)
"""Of files that are being written; where their writer was killed, they stay."""

TRY_AGAIN_AFTER_S = (1.0, 4.0, 15.0)
"""Pauses between tries to reach an object store, beyond those that its package makes."""

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Extras of this package that bring what a protocol needs."""

NOT_THERE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that doesn't have what it was asked for."""

LONGEST_STEM = 100
"""Bytes of a file's name that stand in the name of its temporary one."""

HANDED = (Path("/dev/fd"), Path("/proc/self/fd"))
"""Where the files lie that a process was handed open. A pipe among them has a writer, or an end; a named one may have neither."""

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss")
"""Protocols without directories: making one could make a bucket."""


class Unreachable(OSError):
    """A remote place can't be reached now. No fault of what is kept there, nor of whoever asked."""


class NotAFile(OSError):
    """Something else has a file's name: a directory, a pipe, a link that leads nowhere."""


def locate(text: str | Path) -> Location:
    """From what a user gives to where it is.

    Args:
        text: a directory, with `~` for the home directory, or a URL.

    Raises:
        ValueError: an unknown protocol, one whose package isn't installed, or a path that can't be; the message says what to do.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", str(text))
    if not match:
        slip = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", str(text))
        if "://" in str(text) or (slip and slip[1].lower() in (*EXTRAS, "file")):
            raise ValueError(
                f"storage {text} looks like a URL, but isn't; expected a directory, or a URL such as s3://bucket/run"
            )
        return user_path(text)
    protocol = match[1].lower()
    if protocol in ("file", "local"):
        path = str(text)[match.end() :].removeprefix("localhost")
        if not path.startswith("/"):
            raise ValueError(f"storage {text} names another host, or no absolute path; expected file:///a/directory")
        return user_path(path)
    if protocol not in fsspec.available_protocols() or protocol in ("http", "https", "data", "memory", "reference"):
        raise ValueError(
            f"storage {text}: {protocol}:// can't be written; expected a directory, or a URL such as s3://bucket/run"
        )
    if not str(text)[match.end() :].strip("/"):
        raise ValueError(f"storage {text} names no place; expected a URL such as {protocol}://bucket/run")
    try:
        fsspec.get_filesystem_class(protocol)  # imports what it needs
        return UPath(f"{protocol}{str(text)[len(protocol) :].rstrip('/')}", use_listings_cache=False)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        wanted = remedy_for(extra) if extra else "install what it names"
        raise ValueError(f"storage {text} needs a package that is not here ({error}); {wanted}, on every node") from None


def is_remote(location: Location) -> bool:
    """Whether a location is reached by a URL."""
    return not isinstance(location, Path)


def exists(path: Location) -> bool:
    """Whether anything has this name, a broken link too."""
    return os.path.lexists(path) if isinstance(path, Path) else _reach(path, path.exists)


def entries(directory: Location) -> list[Location]:
    """What lies in a directory; nothing where there is none."""
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def read(path: Location) -> bytes | None:
    """A file's content; None where nothing has its name.

    Raises:
        NotAFile: something else has.
        OSError: it can't be read; `Unreachable`, for a remote one.
    """
    if not isinstance(path, Path):
        try:
            return _reach(path, path.read_bytes)
        except FileNotFoundError:
            return None
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NotAFile("not a plain file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise NotAFile("a link that leads nowhere") from None
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotAFile("a link that leads to itself") from None
        raise


def read_given(path: Location, expected: str) -> bytes:
    """The content of a file that a user names.

    Args:
        path: where it is; also a pipe that this process was handed open, as a shell does for `<(command)`.
        expected: what it is to be, for the message.

    Raises:
        ValueError: it isn't there, is something else than a plain file, or can't be read.
    """
    try:
        handed = isinstance(path, Path) and path.parent in HANDED and path.is_fifo()
        content = path.read_bytes() if handed else read(path)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}; expected {expected}") from error
    if content is None:
        raise ValueError(f"no {path}; expected {expected}")
    return content


def size(path: Location) -> int | None:
    """A remote file's size in bytes; None where there is none."""
    try:
        return int(_reach(path, path.stat).st_size)
    except FileNotFoundError:
        return None


def remove(path: Location) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        if isinstance(path, Path):
            path.unlink()
        else:
            _reach(path, lambda: path.fs.rm_file(path.path))  # s3fs doesn't tell what its way to remove several couldn't


def clear(directory: Path) -> None:
    """Remove a directory with all that is in it, if it is there; of a link the link alone."""
    if directory.is_symlink():
        directory.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def rename(path: Location, new: Location) -> None:
    """Rename a file or, in a directory, anything; a copy and a deletion where there is no renaming."""
    if isinstance(path, Path) and isinstance(new, Path):
        path.rename(new)
    else:
        _reach(path, lambda: path.rename(new))  # type: ignore[arg-type]


def write_atomically(path: Location, content: bytes, before_rename: Callable[[], None] = lambda: None) -> None:
    """Make `path` hold `content`: wholly, and on the disk, or not at all.

    An object store puts an object as a whole, under its own name at once. Where a URL leads to something that doesn't, a torn
    file is found by its digest when it is read.

    Args:
        path: its directory must exist, unless it is remote.
        content: the whole file.
        before_rename: called when only the last step is left; may raise to give up.

    Raises:
        OSError: it can't be written; names the path. `Unreachable`, for a remote one.
    """
    if not isinstance(path, Path):
        before_rename()
        _reach(path, lambda: _put(path, content, mode="overwrite"))
        return
    temporary = _unfinished(path)
    try:
        with _named(path):
            _write(temporary, content, os.O_TRUNC)
        before_rename()
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with _named(path):
        _sync_directory(path.parent)  # the rename itself


def create(path: Location, content: bytes) -> bool:
    """Write a file that must not be there yet; return whether it was made. One of several that try at once makes it.

    It appears whole, but on a file system without hard links, where a reader may find its beginning.
    """
    if not isinstance(path, Path):
        try:
            _put(path, content, mode="create")
        except Exception as error:
            # Object stores have errors of their own for a condition that didn't hold; and an answer may be lost after the deed.
            found = read(path)
            if found is None:
                raise _unreachable(path, error) from error
            return found == content
        return True
    temporary = _unfinished(path)
    try:
        with _named(path):
            _write(temporary, content, os.O_TRUNC)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # exFAT, SMB and others have no links, and different words for it
            return _create_alone(path, content)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _create_alone(path: Path, content: bytes) -> bool:
    try:
        with _named(path):
            _write(path, content, os.O_EXCL)
    except FileExistsError:
        return False
    return True


def _write(path: Path, content: bytes, how: int) -> None:
    """Write a file, down to the disk; `how` says what of one that is there (`os.O_TRUNC`, `os.O_EXCL`)."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, (flags & ~os.O_TRUNC) | how, 0o666)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Bring a directory's names to the disk. SMB, VirtualBox's and some FUSE file systems do that by themselves, or never."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors that name no file, or the temporary one, name this one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}{remedy_of(error)}", str(path)) from error


def remove_unfinished(directory: Path, before: float = math.inf) -> None:
    """Remove what killed writers have left in a directory of files that weren't whole yet. A leftover that can't be removed does
    no harm.

    Args:
        directory: it need not exist.
        before: only what was last written before this time; in seconds, as the file system has it.
    """
    for path in directory.glob(".tmp-*"):
        with suppress(OSError):
            if UNFINISHED_NAME.fullmatch(path.name) and path.stat().st_mtime < before:
                path.unlink()


def _unfinished(path: Path) -> Path:
    name = path.name[:LONGEST_STEM]  # with what stands around it, the whole may be too long
    while len(os.fsencode(name)) > LONGEST_STEM:
        name = name[:-1]  # by characters: some file systems refuse half of one
    return path.with_name(f".tmp-{name}-{uuid.uuid4().hex[:8]}")


def _reach(path: Location, act: Callable[[], T]) -> T:
    """Do something with a remote file, several times if need be. Raises FileNotFoundError as it is, all else as `Unreachable`."""
    for pause_s in (*TRY_AGAIN_AFTER_S, None):
        try:
            return act()
        except FileNotFoundError:
            raise
        except Exception as error:  # each protocol's package has its own
            if pause_s is None or isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EINVAL:
                raise _unreachable(path, error) from error
            time.sleep(pause_s)
    raise AssertionError


def _unreachable(path: Location, error: Exception) -> OSError:
    remedy = remedy_of(error)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return Unreachable(f"{path}: {error.strerror or error}{remedy}")
    return Unreachable(f"{path} can't be reached: {error}{remedy}")


def _put(path: UPath, content: bytes, mode: str) -> None:
    if path.protocol not in OBJECT_STORES:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.fs.pipe_file(path.path, content, mode=mode)
