"""A path as a user gives it: where it is, and whether anything could be there.

Owns what is wrong with a path whatever it is for: an unknown home, names that no file system takes, links that lead nowhere.
Refuses to know what should be there, which whoever asked for the path looks at. Contract: nothing is opened or made; every
flag that takes a path goes through `user_path`, so that what is said is the same for all.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from raysp.store.home import home_of

LONGEST = 4095 - 256
"""Bytes of a path: Linux takes 4095, and what a run makes below a directory needs some."""
LONGEST_NAME = 255
"""Bytes of a name between two slashes, where the file system doesn't say."""
SHOWN = 60
"""Characters of a long name that a message shows."""


def user_path(text: str | Path) -> Path:
    """An absolute path.

    Args:
        text: as it was given, with `~` for the home directory.

    Raises:
        ValueError: it can't be anything's path here; the message says why, and what to do.
    """
    try:
        path = _from_home(text).absolute()
    except FileNotFoundError:
        raise ValueError(f"{shown(text)}: the current directory was removed; go to another one, or give a whole path") from None
    refuse_unfit(path)
    return path


def refuse_unfit(path: Path) -> None:
    """Raise ValueError for an absolute path that nothing can have: its names are too long, or a link in it leads nowhere."""
    length = len(os.fsencode(path))
    if length > LONGEST:
        raise ValueError(f"{shown(path)} has {length:,} bytes, and a path here {LONGEST:,} at most; give a shorter one")
    above = Path(path.anchor)
    for each in (*reversed(path.parents), path):
        try:
            each.stat()
            above = each
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP) and each.is_symlink():
                leads = (
                    "leads back to itself"
                    if error.errno == errno.ELOOP
                    else f"leads to {shown(_target(each))}, which isn't there"
                )
                of = "" if each == path else f"{shown(path)}: "
                raise ValueError(f"{of}{shown(each)} is a link that {leads}; mend the link, or give another path") from None
            break  # what isn't there can be made; what can't be entered, or is a file, says whoever wants to use it
    most = _longest_name(above)
    for name in path.parts[len(above.parts) :]:
        if (length := len(os.fsencode(name))) > most:
            raise ValueError(
                f"{shown(path)}: a name in it has {length:,} bytes, and file systems here take {most} at most; give a shorter one"
            )


def shown(text: str | Path) -> str:
    """A path for a message, whose middle is left out where it is long."""
    text = str(text)
    return text if len(text) <= 3 * SHOWN else f"{text[:SHOWN]}...{text[-SHOWN:]}"


def _from_home(text: str | Path) -> Path:
    with suppress(RuntimeError):
        if not (str(text).startswith("~") and home_of() is None):
            return Path(text).expanduser()
    raise ValueError(f"{shown(text)}: the system knows no such home; set HOME, or give the path without ~")


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return "?"


def _longest_name(directory: Path) -> int:
    with suppress(OSError, ValueError):
        return os.pathconf(directory if directory.is_dir() else directory.parent, "PC_NAME_MAX")
    return LONGEST_NAME
