"""Image folders in torchvision's layout: `train/<class>/*` and `test/<class>/*` or `val/<class>/*`.

Owns finding, fingerprinting and decoding the files; names that start with a dot are passed over. Contract: the fingerprint is
of the files' names and bytes, not of where the tree lies; every problem names the file or directory that has it.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder. Importing torchvision for them would cost every process 0.8 s and 160 MB."""

DECODED = dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]


class FolderError(ValueError):
    """An image folder can't be used."""


def scan(root: Path) -> tuple[list[str], str]:
    """List the classes of the training part and fingerprint all files.

    Returns:
        Class names in sorted order, and the sha256 over every image's relative path and content.

    Raises:
        FolderError: the tree is missing, empty, or has classes in test or val that train lacks.
    """
    digest = hashlib.sha256()
    files = [file for part in _parts(root).values() for file in _files(part)]
    with ThreadPoolExecutor() as pool:
        contents = pool.map(lambda file: hashlib.sha256(_read(file)).digest(), files)
        for file, content in zip(files, contents, strict=True):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode("utf-8", "surrogateescape") + content)
    return classes(root), digest.hexdigest()


def classes(root: Path) -> list[str]:
    """Names of the training part's classes, in the order of their labels. Raises FolderError, as `scan` does."""
    parts = _parts(root)
    names = {part: {d.name for d in _folders(path)} for part, path in parts.items()}
    for part, path in parts.items():
        if not names[part]:
            raise FolderError(f"{path} has no class folders; expected one folder of images per class")
        if extra := sorted(names[part] - names["train"]):
            raise FolderError(
                f"{path} has classes that {parts['train']} lacks: {', '.join(extra[:5])}; add them there or remove them"
            )
    for name in sorted(names["train"]):
        if not any(_images(parts["train"] / name)):
            raise FolderError(f"{parts['train'] / name} holds no image; expected files ending in {', '.join(IMG_EXTENSIONS)}")
    if len(names["train"]) < 2:
        raise FolderError(f"{parts['train']} has one class only; expected at least 2")
    return sorted(names["train"])


def decode(root: Path, image_size: int) -> DECODED:
    """Decode every image of an image folder as RGB of `image_size` pixels.

    Returns:
        For "train", "test" and, where the tree has both val/ and test/, "val": images (n, 3, size, size) uint8 and labels (n,).
        With val/ alone, that is the test part.

    Raises:
        FolderError: what `scan` raises, or an unreadable image.
    """
    labels = {name: number for number, name in enumerate(classes(root))}
    decoded = {}
    with ThreadPoolExecutor() as pool:
        for part, directory in _parts(root).items():
            files = list(_files(directory))
            images = np.empty((len(files), 3, image_size, image_size), dtype=np.uint8)
            for row, image in enumerate(pool.map(lambda file: _open(file, image_size), files)):
                images[row] = image
            numbers = [labels[file.relative_to(directory).parts[0]] for file in files]
            decoded[part] = images, np.asarray(numbers, dtype=np.int64)
    return decoded


def count(root: Path) -> dict[str, int]:
    """How many images `decode` would give, by part. Raises FolderError."""
    return {part: sum(1 for _ in _files(directory)) for part, directory in _parts(root).items()}


def to_array(image: Any, image_size: int) -> npt.NDArray[np.uint8]:
    """Turn a PIL image, or an array (h, w) or (h, w, 3), into uint8 (3, image_size, image_size), resized if need be."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if picture.mode.startswith("I;16"):  # PIL would clip 16 bits to 8 instead of scaling them
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"its pixels are {picture.mode!r}, whose range isn't known; expected 8 or 16 bits a channel")
    picture = picture.convert("RGB")
    if picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _parts(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise FolderError(f"no directory {root}; expected an image folder with train/ and test/ or val/")
    train, test, val = (root / name for name in ("train", "test", "val"))
    if not train.is_dir() or not (test.is_dir() or val.is_dir()):
        held = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise FolderError(f"{root} holds {held}; expected train/ and test/ or val/ with a folder of images per class in each")
    parts = {"train": train, "test": test if test.is_dir() else val}
    if test.is_dir() and val.is_dir():
        parts["val"] = val
    return parts


def _files(part: Path) -> Iterator[Path]:
    found = False
    for directory in _folders(part):
        for file in sorted(_images(directory)):
            found = True
            yield file
    if not found:
        raise FolderError(f"{part} holds no image; expected class folders with files ending in {', '.join(IMG_EXTENSIONS)}")


def _images(directory: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(directory, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = (Path(folder) / name for name in names if not name.startswith("."))
        yield from (file for file in files if file.suffix.lower() in IMG_EXTENSIONS and file.is_file())


def _folders(directory: Path) -> list[Path]:
    return sorted(d for d in directory.iterdir() if d.is_dir() and not d.name.startswith("."))


def _refuse(error: OSError) -> None:
    raise FolderError(f"{error.filename} can't be read: {error.strerror}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FolderError(f"{file} can't be read: {error.strerror}") from None


def _open(file: Path, image_size: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return to_array(image, image_size)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FolderError(f"{file} is not a readable image ({error}); remove or replace it") from None
