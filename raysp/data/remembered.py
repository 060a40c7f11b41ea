"""Facts about files from earlier starts, so that not every start reads every byte.

Owns one small file per image folder in the user's cache directory (XDG_CACHE_HOME, else ~/.cache). Contract: facts are taken for
a file of the same path, size, times and inode alone, and for a row at the same place in such a table; without the cache, or with
a damaged one, everything works and takes longer.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import PIL

from raysp.data.facts import Facts
from raysp.data.listing import ImageFile
from raysp.data.tables import Row

FORMAT = 3
"""Raised when facts mean something else, or are told by other rules."""
SETTLED_S = 2.0
"""Seconds for which a file must have been left alone: one that is written again within its time stamp's grain looks unchanged."""
WORTH_S = 0.5
"""Seconds of reading below which nothing is kept."""


class Remembered:
    """The facts about one image folder."""

    def __init__(self, root: Path, look: Callable[[ImageFile], Facts], environ: Mapping[str, str] = os.environ) -> None:
        """Load what is there.

        Args:
            root: the image folder.
            look: reads a file of which nothing is known.
            environ: the environment, which says where the cache is.
        """
        self._look = look
        self._began, self._clock = time.time(), time.monotonic()
        self._given, self._root = root, os.path.realpath(root)
        self._path = _path(self._root, environ)
        self._known = {} if self._path is None else _load(self._path, self._root)
        self._now: dict[str, list[Any]] = {}
        self._is_new = False

    def __call__(self, file: ImageFile) -> Facts:
        """Facts about a file, from the cache or by reading it. Safe in threads."""
        name = (file.source_in(self._given) if isinstance(file, Row) else file.relative_to(self._given)).as_posix()
        try:
            status = file.stat()
        except OSError:
            return self._look(file)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        row = self._known.get(name)
        if row and row[: len(stamp)] == stamp:
            self._now[name] = row
            return Facts(*row[len(stamp) :])
        facts = self._look(file)
        is_settled = max(status.st_mtime, status.st_ctime) < self._began - SETTLED_S
        with contextlib.suppress(OSError):
            if facts.digest and is_settled and (not isinstance(file, Row) or file.holds_picture()):
                self._now[name] = [*stamp, *facts]
                self._is_new = True
        return facts

    def keep(self) -> None:
        """Write down what is known now, if it is new and was worth it; one that can't be written is no matter."""
        if self._path is None or not self._is_new or time.monotonic() - self._clock < WORTH_S:
            return
        content = json.dumps({**_head(self._root), "files": self._now})
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=self._path.parent) as beside:
                new = Path(beside) / self._path.name
                new.write_text(content, encoding="ascii")
                new.replace(self._path)


def _path(root: str, environ: Mapping[str, str]) -> Path | None:
    if (cache := environ.get("XDG_CACHE_HOME")) and Path(cache).is_absolute():
        above = Path(cache)
    elif home := environ.get("HOME"):
        above = Path(home) / ".cache"
    else:
        return None
    return above / "raysp" / "images" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"


def _head(root: str) -> dict[str, Any]:
    return {"format": FORMAT, "pillow": PIL.__version__, "root": root}


def _load(path: Path, root: str) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        head, files = {name: content[name] for name in _head(root)}, content["files"]
        fits = head == _head(root) and all(len(row) == 4 + len(Facts._fields) for row in files.values())
        return files if fits else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
