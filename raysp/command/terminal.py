"""Standard output and errors of a process that outlives who reads them.

Owns what happens when a terminal is closed, the reader of a pipe is gone, the disk under a log is full, or there is no stream at
all: lines are lost, and nothing else. Training goes on, and exit statuses stay what they are. A sign that a terminal's encoding
lacks is written as Python escapes it. Contract: importing it costs no time.
"""

import atexit
import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from raysp.engine.standins import stand_in_for_home

if TYPE_CHECKING:
    from rich.console import Console

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Errors of a stream that nobody will read any more."""


def shield(*, anywhere: bool = False) -> None:
    """Let the process' own two streams never raise, whoever writes to them, and give it a home: a command's first act.

    Pictures are drawn into files alone. What a notebook or a shell asks of matplotlib's windows would only be in the way: a
    backend that isn't installed here ends its import.

    Args:
        anywhere: whether the command works in a directory that was removed, too, where torch ends the process as it is imported;
            else this does, with status 2.
    """
    sys.stdout, sys.stderr = _lossy(sys.stdout), _lossy(sys.stderr)
    stand_in_for_home()
    os.environ.pop("MPLBACKEND", None)
    if not anywhere:
        try:
            Path.cwd()
        except OSError:
            print("error: the current directory was removed; go to another one", file=sys.stderr)
            sys.exit(2)


def consoles(width: int = 120) -> "tuple[Console, Console]":
    """The consoles of standard output and of standard error, neither of which ever raises. A log gets the width."""
    from rich.console import Console

    out, errors = _lossy(sys.stdout), _lossy(sys.stderr)
    return (
        Console(file=out, highlight=False, emoji=False, width=None if out.isatty() else width),  # type: ignore[arg-type]
        Console(file=errors, highlight=False, emoji=False),  # type: ignore[arg-type]
    )


def tell_reading(done: int, of: int) -> None:
    """Say on standard error how many files of how many have been read: on a terminal in one line, which the last one ends."""
    errors = _lossy(sys.stderr)
    start, end = ("\r", "\n" if done == of else "") if errors.isatty() else ("", "\n")
    errors.write(f"{start}reading images: {done:,} of {of:,} files ({100 * done // of} %){end}")
    errors.flush()


def _lossy(stream: "TextIO | _Lossy | None") -> "_Lossy":
    if isinstance(stream, _Lossy):
        return stream
    return _Lossy(stream or Path(os.devnull).open("w"))


class _Lossy:
    """A text stream whose writes don't fail; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        atexit.register(self._finish)

    def write(self, text: str) -> int:
        """As `TextIO`'s."""
        self._try(lambda: self._write(text))
        return len(text)

    def flush(self) -> None:
        """As `TextIO`'s."""
        self._try(self._stream.flush)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self._stream.write(text.encode(error.encoding, errors="backslashreplace").decode(error.encoding))

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
