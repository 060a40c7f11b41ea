"""The home directory, and what a user calls `~`.

Owns the difference between a home that is known and what stands in for one (`raysp.engine.standins`). Contract: importing it
costs no time.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

NO_HOME = "RAYSP_NO_HOME"
"""Environment variable with the directory that stands in for a home that nobody knows."""


def home_of(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The home directory; None where nobody knows it."""
    if environ.get("HOME"):
        return None if environ["HOME"] == environ.get(NO_HOME) else Path(environ["HOME"])
    with suppress(ImportError, KeyError):
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    return None


def from_home(text: str | Path) -> Path:
    """A path as a user gives it, with `~` for the home directory.

    Raises:
        ValueError: it begins with a home that nobody knows.
    """
    with suppress(RuntimeError):
        if not (str(text).startswith("~") and home_of() is None):
            return Path(text).expanduser()
    raise ValueError(f"{text}: the system knows no such home; set HOME, or give the path without ~")
