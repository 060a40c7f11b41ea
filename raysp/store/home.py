"""The home directory.

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
