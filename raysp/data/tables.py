"""Pictures that lie in the rows of a table: Parquet, or Arrow as Hugging Face's `datasets` saves it.

Owns how a row's bytes are read. Refuses to know what a part or a class is (`raysp.data.huggingface`). Contract: many threads can
read rows; of the tables only the pieces that were read last are held in memory.
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from raysp.data.facts import in_its_place

if TYPE_CHECKING:
    import pyarrow as pa

PIECES_HELD = 16
"""Row groups in memory, of a hundred or a thousand images each: as many as threads read at once on most machines."""
START = 256
"""Bytes of a file that is no table, which may tell what it is."""


class Shelf:
    """The pieces of tables that were read last.

    Args:
        column: which is read.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._pieces: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def column(self) -> str:
        """Which is read."""
        return self._column

    def value(self, file: Path, piece: int, row: int) -> Any:
        """The column's value in a row of a piece of a file."""
        with self._lock:
            if (file, piece) not in self._pieces:
                self._pieces[file, piece] = read_column(file, self._column, piece)
                if len(self._pieces) > PIECES_HELD:
                    self._pieces.popitem(last=False)
            self._pieces.move_to_end((file, piece))
            column = self._pieces[file, piece]
        return column[row].as_py()


@dataclass(frozen=True, order=True, kw_only=True, slots=True)
class Row:
    """A picture in a table, which reads like a file (`raysp.data.listing.ImageFile`)."""

    part: str
    number: int
    """Of all rows of the part, from 0."""
    class_name: str = field(compare=False)
    file: Path = field(compare=False)
    """The table's."""
    place: tuple[int, int] = field(compare=False)
    """The piece of the file, and the row in that."""
    shelf: Shelf = field(compare=False, repr=False)

    def read_bytes(self) -> bytes:
        """The picture as it is encoded. Raises OSError."""
        content, path = self._held()
        if content is None and path:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise OSError(errno.EACCES, f"the row names {path}, which lies outside the data set")
            return (self.file.parent / path).read_bytes()
        if not isinstance(content, bytes):
            raise OSError(errno.ENODATA, "the row holds no image")
        return content

    def relative_to(self, root: Path, /) -> PurePath:
        """Its name among all, which doesn't depend on how the table is cut into files: part, class, and number."""
        return PurePosixPath(self.part, self.class_name.replace("/", "_"), str(self.number))

    def stat(self) -> os.stat_result:
        """The table's: a row that holds its picture is as old as its file."""
        return self.file.stat()

    def source_in(self, root: Path) -> PurePath:
        """What it is read from: the table below the root, the place in that, and the column."""
        return PurePosixPath(self.file.relative_to(root).as_posix(), *map(str, self.place), self.shelf.column)

    def holds_picture(self) -> bool:
        """Whether the picture lies in the table; else in a file, whose age the table's doesn't tell. Raises OSError."""
        return self._held()[0] is not None

    def _held(self) -> tuple[Any, str | None]:
        """The picture's bytes, and the name of a file."""
        value = self.shelf.value(self.file, *self.place)
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)

    def __str__(self) -> str:
        return f"row {self.number} of {self.part} ({self.class_name}; in {self.file})"


def schema_of(file: Path) -> "pa.Schema":
    """Names and types of a table's columns. Raises OSError with the file's name, also for what is no table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _told_of(file):
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as content:
            return pa.ipc.open_stream(content).schema


def read_column(file: Path, column: str, piece: int | None = None) -> "pa.ChunkedArray":
    """A column of a table, or of one of its pieces; an Arrow file is one piece, which stays on the disk. Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _told_of(file):
        if file.suffix != ".parquet":
            table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        elif piece is None:
            table = pq.ParquetFile(file).read(columns=[column])
        else:
            table = pq.ParquetFile(file).read_row_group(piece, columns=[column])
    if column not in table.column_names:
        raise OSError(errno.ENODATA, f"it has no column {column}", str(file))
    return table.column(column)


def pieces_of(file: Path, rows: int) -> list[int]:
    """Rows in each piece of a table that has so many. Raises OSError."""
    import pyarrow.parquet as pq

    if file.suffix != ".parquet":
        return [rows]
    with _told_of(file):
        found = pq.ParquetFile(file).metadata
        return [found.row_group(number).num_rows for number in range(found.num_row_groups)]


@contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """Raise what goes wrong with a table as an OSError that says what and where."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        try:
            with file.open("rb") as content:
                why = in_its_place(content.read(START))
        except OSError as unread:
            raise OSError(unread.errno, unread.strerror, str(file)) from error
        raise OSError(errno.EINVAL, why or f"it is no table, or a damaged one ({error})", str(file)) from error
