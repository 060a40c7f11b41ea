"""Data sets: where their images come from, and the images in memory.

Owns the split into training, validation and test parts, and the normalisation. Refuses to augment or batch
(`raysp.training.batches`). Contract: the same configuration (`raysp.data.config`) gives the same arrays in the same order. Every
image is decoded before anything trains.
"""

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from raysp.data.config import DataConfig, Selection
from raysp.data.facts import Tell
from raysp.data.folders import LAYOUTS, config_of, load_folder, read_folder, split_of
from raysp.data.huggingface import Columns
from raysp.data.imagefolder import Folder
from raysp.data.listing import FolderError
from raysp.data.notes import notes_of
from raysp.data.pictures import to_array
from raysp.data.splitting import held_out
from raysp.store.paths import user_path

CROP_SHARE = 8
"""Training images are padded by one pixel in this many before they are cropped: by 4 at 32x32, as is usual."""

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class DataError(ValueError):
    """A data set is missing or unusable; the message names the file or directory."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images and their labels."""

    images: Images
    """(n, channels, size, size), 0 to 255."""
    labels: Labels
    """(n,), 0 to classes - 1."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A decoded data set."""

    train: Part
    val: Part
    test: Part
    mean: list[float]
    """Per channel over the training part, in units of 255."""
    std: list[float]
    """Per channel over the training part, in units of 255."""
    classes: tuple[str, ...] = ()
    """Names in the order of labels; empty where classes have none but their numbers."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set's images come from, before they are decoded."""

    config: DataConfig
    path: Path
    """Directory to read or to download to."""
    folder: Folder | None = None
    """The files, where it is a folder."""
    notes: tuple[str, ...] = ()
    """What the user should know of it before training, a sentence each."""
    passed_over: str = ""
    """How many files were passed over, and of which kinds."""


@dataclass(frozen=True, kw_only=True)
class _Builtin:
    num_classes: int
    channels: int
    native_size: int
    flip: bool
    num_images: tuple[int, int]
    """In the training and the test part."""
    is_downloaded: bool
    """Whether it lies in a directory of the user's."""
    load: Callable[[int, Path], tuple[Part, Part, tuple[str, ...]]]
    """(image size, directory) to the training and the test part, and the names of the classes if they have any."""


def open_source(
    name: str,
    image_size: int | None,
    data_dir: Path,
    selection: Selection = "val",
    *,
    columns: Columns = Columns(),  # noqa: B008 - it can't be changed
    tell: Tell | None = None,
) -> Source:
    """Find out what a data set is, without decoding it. A folder's files are all read, or remembered from an earlier time.

    Args:
        name: `digits`, `cifar10`, `cifar100`, `imagefolder:PATH`, `tiny-imagenet:PATH` or `huggingface:NAME_OR_PATH`.
        image_size: pixels; None takes the data set's own size (32 for an image folder).
        data_dir: where downloaded data sets lie, with `~` for the home directory.
        selection: part that chooses the best epoch; see `DataConfig`.
        columns: of `huggingface`, where they can't be guessed.
        tell: called about once a second, where reading takes so long, with how many files of how many are read.

    Raises:
        DataError: unknown name, or an image folder that can't be used.
        ValueError: a path that can't be.
    """
    layout, colon, place = name.partition(":")
    if colon and layout in LAYOUTS:
        return _open_folder(layout, place, image_size, selection, columns, tell)
    if any(columns):
        raise DataError(f"{name} has no columns; expected --image-column and --label-column with huggingface: alone")
    if name not in _BUILTIN:
        raise DataError(
            f"unknown data set {name!r}; expected one of {', '.join(_BUILTIN)}, or {' or '.join(f'{n}:PATH' for n in LAYOUTS)}"
        )
    known = _BUILTIN[name]
    size = known.native_size if image_size is None else image_size
    config = DataConfig(
        name=name,
        num_classes=known.num_classes,
        channels=known.channels,
        image_size=size,
        crop_padding=size // CROP_SHARE,
        flip=known.flip,
        selection=selection,
    )
    return Source(config=config, path=user_path(data_dir) if known.is_downloaded and data_dir is not None else data_dir)


def _open_folder(
    layout: str, place: str, image_size: int | None, selection: Selection, columns: Columns, tell: Tell | None
) -> Source:
    if not place:
        raise DataError(f"{layout}: without a path; expected {layout}:PATH")
    try:
        folder = read_folder(layout, place, columns, tell)
    except FolderError as error:
        raise DataError(str(error)) from None
    size = LAYOUTS[layout].size if image_size is None else image_size
    config = config_of(layout, folder, size, size // CROP_SHARE, selection)
    return Source(
        config=config,
        path=folder.listing.root,
        folder=folder,
        notes=tuple(notes_of(folder, split_of(folder, config))),
        passed_over=folder.listing.passed_over,
    )


def load_splits(source: Source) -> Splits:
    """Decode a data set and split it.

    Raises:
        DataError: it can't be found, downloaded or decoded, or is too small to split; the message names the file.
    """
    config = source.config
    if source.folder is not None:
        try:
            parts = {part: Part(images=i, labels=l) for part, (i, l) in load_folder(source.folder, config).items()}
        except FolderError as error:
            raise DataError(str(error)) from None
        train, val, test, classes = parts["train"], parts["val"], parts["test"], source.folder.listing.classes
    else:
        try:
            train, test, classes = _BUILTIN[config.name].load(config.image_size, source.path)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{config.name} is not in {source.path} (or not whole), and could not be downloaded to it: {error}; "
                "put torchvision's files there, or name their directory with --data-dir"
            ) from error
        if config.selection == "test":
            val = test
        else:
            train, val = _hold_out(train, config.val_fraction)
    if len(train) < 2 or not len(val) or not len(test):
        raise DataError(
            f"{config.name}: {len(train)} training, {len(val)} validation and {len(test)} test images; "
            "expected at least 2 for training and 1 of each other"
        )
    mean, std = _statistics(train.images)
    return Splits(train=train, val=val, test=test, mean=mean, std=std, classes=classes)


def part_sizes(source: Source) -> dict[str, int]:
    """Images in the parts "train", "val" and "test", without decoding or downloading any."""
    config = source.config
    if source.folder is not None:
        counts = {part: len(entries) for part, entries in source.folder.listing.parts.items()}
    else:
        counts = dict(zip(("train", "test"), _BUILTIN[config.name].num_images, strict=True))
    if config.selection == "test":
        counts["val"] = counts["test"]
    elif "val" not in counts:
        counts["val"] = round(config.val_fraction * counts["train"])
        counts["train"] -= counts["val"]
    return counts


def _hold_out(part: Part, fraction: float) -> tuple[Part, Part]:
    """Split off a share at random, spread over the classes in proportion."""
    kept, held = held_out(part.labels, fraction)
    return tuple(Part(images=part.images[i], labels=part.labels[i]) for i in (kept, held))  # type: ignore[return-value]


def _statistics(images: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in units of 255, exact from the histogram of byte values."""
    means, stds = [], []
    values = np.arange(256) / 255.0
    for channel in range(images.shape[1]):
        share = np.bincount(images[:, channel].reshape(-1), minlength=256) / images[:, channel].size
        mean = float(share @ values)
        means.append(mean)
        stds.append(float(np.sqrt(share @ (values - mean) ** 2)) or 1.0)
    return means, stds


def _load_digits(image_size: int, path: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """scikit-learn's 1,797 handwritten digits, 8x8; a fixed fifth, drawn in proportion to the classes, is the test part."""
    table = _digits_table()
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    resized = np.stack([to_array(image, image_size)[:1] for image in images])
    whole = Part(images=resized, labels=table[:, -1].astype(np.int64))
    return *_hold_out(whole, 0.2), ()


def _digits_table() -> npt.NDArray[np.float64]:
    """(1797, 65): each digit's 64 pixels, 0 to 16, and its label."""
    spec = importlib.util.find_spec("sklearn")
    for directory in (spec and spec.submodule_search_locations) or ():
        # Importing scikit-learn takes a second, which a small sweep doesn't have, and every process of a test takes anew.
        if (file := Path(directory, "datasets", "data", "digits.csv.gz")).is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _load_cifar(name: str, image_size: int, path: Path) -> tuple[Part, Part, tuple[str, ...]]:
    import torchvision

    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is not a directory; expected one that holds {name}, or to download it to")
    existed = path.exists()
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    parts = []
    for train in (True, False):
        try:
            found = kind(root=path, train=train, download=False)
        except RuntimeError:
            path.mkdir(parents=True, exist_ok=True)
            waiting_line = path / ".download.lock"
            try:
                with FileLock(waiting_line):  # of two sweeps that start at once, one downloads
                    found = kind(root=path, train=train, download=True)  # downloads what isn't there whole by now
            except BaseException:
                if not existed:
                    with suppress(OSError):
                        waiting_line.unlink(missing_ok=True)
                        path.rmdir()
                raise
        images = found.data
        if image_size != images.shape[1]:
            images = np.stack([to_array(image, image_size) for image in images])
        else:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        parts.append(Part(images=images, labels=np.asarray(found.targets, dtype=np.int64)))
    return parts[0], parts[1], tuple(found.classes)


_CIFAR = partial(_Builtin, channels=3, native_size=32, flip=True, num_images=(50_000, 10_000), is_downloaded=True)
_BUILTIN = {
    "digits": _Builtin(
        num_classes=10, channels=1, native_size=8, flip=False, num_images=(1438, 359), is_downloaded=False, load=_load_digits
    ),
    "cifar10": _CIFAR(num_classes=10, load=partial(_load_cifar, "cifar10")),
    "cifar100": _CIFAR(num_classes=100, load=partial(_load_cifar, "cifar100")),
}
"""Data sets that a name pins down; adding an entry adds a data set."""
