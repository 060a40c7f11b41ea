"""What stands in for what a process' surroundings lack: a home, and a directory of its own with a short name.

Owns making them, and telling those who start later of them by environment variables. Refuses to look
(`raysp.engine.surroundings`) and to touch what is there. Contract: what is made is this user's alone; where nothing can be made,
nothing is changed.
"""

import os
from contextlib import suppress
from pathlib import Path

from raysp.engine.surroundings import can_write, is_own, short_directory
from raysp.store.home import NO_HOME, home_of


def make_own(directory: Path) -> bool:
    """Make a directory that is this user's alone; whether it now is there, and is that."""
    with suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        return is_own(directory)
    return False


def stand_in_for_home() -> None:
    """Give this process, and those that it starts, a home where nobody knows one: libraries fail without. And give matplotlib,
    which would warn, a place for its cache where the home can't be written to.

    What a user calls `~` is not that home (`raysp.store.paths.user_path`).
    """
    home = home_of()
    if home is not None and can_write(home):
        return
    short = short_directory()
    if short is None or not make_own(short):
        return
    os.environ.setdefault("MPLCONFIGDIR", str(short / "matplotlib"))
    if home is None:
        os.environ["HOME"] = os.environ[NO_HOME] = str(short)
