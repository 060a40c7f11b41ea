"""Standard output and errors of a process that outlives who reads them.

Owns what happens when a terminal is closed, the reader of a pipe is gone, the disk under a log is full, or there is no stream at
all: lines are lost, and nothing else. Training goes on, and exit statuses stay what they are.
"""

import atexit
import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Errors of a stream that nobody will read any more."""


def consoles() -> tuple[Console, Console]:
    """The consoles of standard output and of standard error, neither of which ever raises. Logs, which have no width, get 120."""
    # Where there is no stream, one that the console uses as long as the process lives.
    out, errors = (_Lossy(stream or Path(os.devnull).open("w")) for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    return (
        Console(file=out, highlight=False, width=None if out.isatty() else 120),  # type: ignore[arg-type]
        Console(file=errors, highlight=False),  # type: ignore[arg-type]
    )


class _Lossy:
    """A text stream whose writes don't fail; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        atexit.register(self._finish)

    def write(self, text: str) -> int:
        """As `TextIO`'s."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As `TextIO`'s."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno in GONE:
                self._drop()

    def _finish(self) -> None:
        """What is buffered and can't be written would fail once more when Python ends, and change the process' status."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()
        except ValueError:  # it is closed
            pass

    def _drop(self) -> None:
        """Let all that is written from here on, and all that is buffered, go nowhere."""
        with suppress(OSError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
