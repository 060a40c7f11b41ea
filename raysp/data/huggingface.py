"""Data sets of Hugging Face's layouts: Parquet files as the Hub has them, and directories that `datasets` saved.

Owns which rows are images of which class and part. Refuses to read an image, or to run code that comes with data. Contract: the
same pictures, classes and order make the same listing, wherever they lie and into however many files they are cut.

    data/train-00000-of-00002.parquet, data/test-00000-of-00001.parquet     the Hub; also train/0000.parquet, or train.parquet
    dataset_dict.json, train/state.json, train/data-00000-of-00001.arrow    `DatasetDict.save_to_disk`
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from raysp.data.hub import can_be_name, fetch
from raysp.data.listing import Entry, FolderError, Listing
from raysp.data.tables import Row, Shelf, pieces_of, read_column, schema_of
from raysp.store.paths import user_path
from raysp.store.reasons import why

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)
"""Words in the names of files and directories, and the parts that they mean."""
TABLES = (".parquet", ".arrow")
"""How files with tables end."""
NO_LABEL = -1
"""What a row holds whose class isn't told."""
NAMED = 5
"""Columns, files and classes that a message names."""
_SHARD = re.compile(r"(.*)-([0-9]{1,9})-of-([0-9]{1,9})(?:-[0-9a-f]+)?")
"""The name of one of several files: what stands before, its number, how many there are, and a digest in older data sets."""


class Columns(NamedTuple):
    """Which columns of a table hold what; None is for what can be guessed."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Files:
    root: Path
    splits: Mapping[str, Sequence[Path]]
    features: Mapping[str, Any]
    """By column, as `datasets` describes them: their `_type`, and `names` of classes."""
    notes: Sequence[str] = ()


def list_huggingface(place: str, columns: Columns) -> Listing:
    """List a data set.

    Args:
        place: a directory, or a name on the Hub, with a configuration's name behind it if there are several: `OWNER/NAME/CONFIG`.
        columns: which to take.

    Raises:
        FolderError: it isn't there, can't be reached, has no part to train on or to test with, or its columns can't be told.
    """
    root = user_path(place)
    try:
        return _listing(_files_of(_directory_of(root, place)), columns)
    except FolderError:
        raise
    except OSError as error:
        raise _unreadable(error) from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise FolderError(
            f"{place}: its description, or a table's, is damaged ({why(error)}); expected what the package `datasets` writes, "
            "such as by to_parquet"
        ) from None


def _directory_of(root: Path, place: str) -> Path:
    if root.is_dir():
        return root
    is_table = root.suffix in TABLES
    if root.exists() and (is_table or not can_be_name(place)):  # a file that has a data set's name is none of its
        wanted = f"its directory, such as huggingface:{root.parent}" if is_table else "a directory with .parquet files"
        raise FolderError(f"{root} is a file; expected {wanted}{'' if is_table else ', or a name on the Hub'}")
    return fetch(place, lambda names: _by_split(names, f"{place} on the Hub"))


def _unreadable(error: OSError) -> FolderError:
    return FolderError(f"{error.filename} can't be read: {error.strerror}")


def _listing(files: _Files, columns: Columns) -> Listing:
    image, label = _choose(schema_of(_first(files.splits)), files.features, columns, files.root)
    columns_of = {
        split: [read_column(path, label).to_pylist() for path in paths]
        for split, paths in files.splits.items()
        if split == "train" or (paths and label in schema_of(paths[0]).names)
    }
    values = {split: list(chain.from_iterable(each)) for split, each in columns_of.items()}
    lacks = {split: _lack(values.get(split)) for split in dict.fromkeys(SPLITS.values()) if split in files.splits}
    tested = next((split for split in ("test", "validation") if lacks.get(split) == ""), None)
    if tested is None or lacks.get("train") != "":
        found = ", ".join(f"{split} ({lack or 'with labels'})" for split, lack in lacks.items())
        raise FolderError(
            f"{files.root} has {found}; expected train with labels in the column {label}, and test or validation with labels"
        )
    notes = [*files.notes, *(f"{split} has {lack}: not read" for split, lack in lacks.items() if lack)]
    values = {split: column for split, column in values.items() if not lacks[split]}
    classes, numbers = _classes(files.features.get(label, {}), values["train"], files.root)
    is_named = bool(files.features.get(label, {}).get("names"))
    parts = {"train": "train", "test": tested}
    if tested == "test" and "validation" in values:
        parts["val"] = "validation"
    shelf = Shelf(image)
    listed = {}
    for part, split in parts.items():
        bad = next((row for row, value in enumerate(values[split]) if value not in numbers), None)
        if bad is not None:
            wrong = f"is of class {values[split][bad]!r}, which {'has no name' if is_named else 'train lacks'}"
            if values[split][bad] is None or (is_named and values[split][bad] == NO_LABEL):
                wrong = "has no label"
            raise FolderError(f"row {bad} of {split} in {files.root} {wrong}; remove such rows")
        rows = (
            (path, [numbers[value] for value in of_file])
            for path, of_file in zip(files.splits[split], columns_of[split], strict=True)
        )
        listed[part] = tuple(_entries(part, rows, classes, shelf))
    present = {entry.label for entry in listed["train"]}
    if absent := [name for number, name in enumerate(classes) if number not in present]:
        more = ", ..." if len(absent) > NAMED else ""
        notes.append(f"{len(absent):,} of {len(classes):,} classes have no training image: {', '.join(absent[:NAMED])}{more}")
    if len(present) < 2:
        raise FolderError(f"train in {files.root} has images of {len(present)} class; expected at least 2")
    return Listing(root=files.root, classes=classes, parts=listed, notes=tuple(notes))


def _lack(labels: Sequence[Any] | None) -> str:
    """What keeps a part from being used: its column of labels is missing, or says nothing."""
    if labels is None:
        return "no column of labels"
    if not labels:
        return "no rows"
    return "no labels" if all(label in (None, NO_LABEL) for label in labels) else ""


def _first(splits: Mapping[str, Sequence[Path]]) -> Path:
    """The file that says what the columns are: a part without labels may lack some that train has."""
    return next(paths[0] for paths in (splits.get("train"), *splits.values()) if paths)


def _entries(part: str, files: Iterable[tuple[Path, Sequence[int]]], classes: Sequence[str], shelf: Shelf) -> Iterator[Entry]:
    """The rows of a part's files, of which the labels are known."""
    number = 0
    for path, labels in files:
        places = ((piece, row) for piece, rows in enumerate(pieces_of(path, len(labels))) for row in range(rows))
        for place, label in zip(places, labels, strict=True):
            yield Entry(Row(part=part, number=number, class_name=classes[label], file=path, place=place, shelf=shelf), label)
            number += 1


def _files_of(root: Path) -> _Files:
    if (root / "dataset_dict.json").is_file():
        return _saved(root)
    if (root / "state.json").is_file():
        raise FolderError(f"{root} holds one part; expected what a DatasetDict with train, and test or validation, saves")
    named, unnamed = _by_split((PurePosixPath(path.relative_to(root)) for path in sorted(root.rglob("*.parquet"))), root)
    splits = {split: [root / inside for inside in each] for split, each in named.items()}
    if not splits:
        raise FolderError(
            f"{root} holds no .parquet file whose name, or directory, says train, test or validation; expected a data set of the "
            "Hub's layout, such as data/train-00000-of-00001.parquet, or one saved by DatasetDict.save_to_disk"
        )
    try:
        described = json.loads((schema_of(_first(splits)).metadata or {}).get(b"huggingface", b"{}"))
    except OSError as error:
        raise _unreadable(error) from None
    if lacking := _lacking(chain.from_iterable(splits.values())):
        more = ", ..." if len(lacking) > NAMED else ""
        raise FolderError(
            f"{root} lacks {', '.join(path.relative_to(root).as_posix() for path in lacking[:NAMED])}{more}, as the files beside "
            "say by their names; download them again, or rename the others if this is all"
        )
    notes = [f"{', '.join(unnamed[:NAMED])} in {root}: not read; its name says no part"] if unnamed else []
    partial = [split for split, each in named.items() if any("partial" in _words(inside.as_posix()) for inside in each)]
    if partial:
        notes.append(f"{', '.join(sorted(partial))} is partial by its name: the Hub has converted the first rows of it alone")
    return _Files(root=root, splits=splits, features=described.get("info", {}).get("features", {}), notes=notes)


def _by_split(names: Iterable[PurePosixPath], where: object) -> tuple[dict[str, list[PurePosixPath]], list[str]]:
    """Files' names by the parts that they speak of, and those that speak of none. Raises FolderError for several data sets."""
    splits: dict[str, list[PurePosixPath]] = {}
    configurations, unnamed = set(), []
    for inside in names:
        if any(name.startswith(".") for name in inside.parts):
            continue
        split = next(filter(None, map(_split_in, (inside.stem, *reversed(inside.parts[:-1])))), None)
        if split is None:
            unnamed.append(inside.as_posix())
            continue
        splits.setdefault(split, []).append(inside)
        configurations.add("/".join(name for name in inside.parts[:-1] if _split_in(name) is None))
    if len(configurations) > 1:
        some = ", ".join(name or "." for name in sorted(configurations)[:NAMED])
        raise FolderError(f"{where} holds several data sets: {some}; name one of them: huggingface:.../NAME")
    return splits, unnamed


def _saved(root: Path) -> _Files:
    """What `DatasetDict.save_to_disk` has written."""
    splits: dict[str, list[Path]] = {}
    features: dict[str, Any] = {}
    notes = []
    path = root / "dataset_dict.json"
    try:
        for name in json.loads(path.read_text())["splits"]:
            if (split := _split_in(name)) is None or split in splits:
                notes.append(f"{name} in {root}: not read; the parts are called train, test and validation")
                continue
            path = root / name / "state.json"
            state = json.loads(path.read_text())
            splits[split] = [root / name / file["filename"] for file in state["_data_files"]]
            if split == "train" or not features:
                path = root / name / "dataset_info.json"
                features = json.loads(path.read_text())["features"]
            if state.get("_indices_files"):
                raise FolderError(f"{root / name} is a selection of rows; expected one that was written with flatten_indices()")
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, FolderError):
            raise
        said = error.strerror if isinstance(error, OSError) else why(error)
        raise FolderError(f"{root} is not whole: {path.relative_to(root)}: {said}; save the data set again") from None
    if not any(splits.values()):
        raise FolderError(f"{root} holds no part; expected train, and test or validation")
    return _Files(root=root, splits=splits, features=features, notes=notes)


def _split_in(name: str) -> str | None:
    """The part that a name speaks of."""
    return next((SPLITS[word] for word in _words(name) if word in SPLITS), None)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def _lacking(files: Iterable[Path]) -> list[Path]:
    """The files that others speak of: `train-00000-of-00002.parquet` of a second one."""
    numbers: dict[tuple[Path, str, int, int], set[int]] = {}
    for path in files:
        if match := _SHARD.fullmatch(path.stem):
            before, number, count = match.groups()
            numbers.setdefault((path.parent, before, len(number), int(count)), set()).add(int(number))
    return [
        directory / f"{before}-{number:0{digits}}-of-{count:0{digits}}.parquet"
        for (directory, before, digits, count), present in numbers.items()
        if len(present) < count
        for number in islice((number for number in range(count) if number not in present), NAMED + 1)
    ]


def _choose(schema: "pa.Schema", features: Mapping[str, Any], columns: Columns, root: Path) -> tuple[str, str]:
    """The columns of images and of labels: those that are asked for, or the only ones that it can be."""
    import pyarrow as pa

    for flag, name in zip(("--image-column", "--label-column"), columns, strict=True):
        if name is not None and name not in schema.names:
            raise FolderError(f"{root} has no column {name!r}; expected one of {', '.join(schema.names)} for {flag}")
    of_images, of_labels = [], []
    for name, of_column in zip(schema.names, schema.types, strict=True):
        kind = of_column.value_type if pa.types.is_dictionary(of_column) else of_column  # such as pandas' categories
        if (
            (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
            or pa.types.is_binary(kind)
            or pa.types.is_large_binary(kind)
        ):
            of_images.append(name)
        elif pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
            of_labels.append(name)
    chosen = []
    for flag, asked, possible, kind, what in (
        ("--image-column", columns.image, of_images, "Image", "images"),
        ("--label-column", columns.label, of_labels, "ClassLabel", "numbers or names"),
    ):
        if asked is not None and asked not in possible:
            raise FolderError(
                f"column {asked} in {root} holds {schema.field(asked).type}; expected {what} for {flag}, as in "
                f"{', '.join(possible) or 'no column of it'}"
            )
        told = [name for name in possible if isinstance(features.get(name), dict) and features[name].get("_type") == kind]
        chosen.append(asked or _only(told or possible, f"{flag[2:-7]}s", flag, schema.names, root))
    return chosen[0], chosen[1]


def _only(names: Sequence[str], what: str, flag: str, all_names: Sequence[str], root: Path) -> str:
    if len(names) == 1:
        return names[0]
    found = f"{len(names)} columns that may hold {what}: {', '.join(names[:NAMED])}" if names else f"no column of {what}"
    raise FolderError(f"{root} has {found}; name one with {flag} (of {', '.join(all_names)})")


def _classes(feature: Any, train: Sequence[Any], root: Path) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Names in the order of labels, and the labels by what the column holds."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if names:
        return tuple(map(str, names)), {number: number for number in range(len(names))}
    values = sorted({value for value in train if value is not None})
    return tuple(map(str, values)), {value: number for number, value in enumerate(values)}
