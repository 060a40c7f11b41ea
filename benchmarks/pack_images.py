"""An image folder of small images as few small files, without loss, and back: for a machine that data must be brought to.

    python benchmarks/pack_images.py pack FOLDER PACKED --pieces 2
    python benchmarks/pack_images.py unpack PACKED --folder FOLDER

A class's images of one part stand below one another in one picture, as lossless WebP: CIFAR-100 takes 100 MB so, as PNG files 127
(179 with tar's blocks around them). Unpacked, each image is a PNG file with the pixels and the name that it had.
"""

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional, arg

MAX_SIDE = 16383
"""Pixels of a WebP picture's side."""


def _packed(folder: Path) -> tuple[bytes, list[str]]:
    """The images of one class folder as one picture, and their names."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    sizes = {image.shape for image in images}
    if len(sizes) != 1 or images[0].shape[0] != images[0].shape[1]:
        raise ValueError(f"{folder} holds images of sizes {sorted(sizes)[:3]}; expected squares of one size")
    size = images[0].shape[0]
    columns = -(-len(images) // (MAX_SIDE // size))
    rows = -(-len(images) // columns)
    grid = np.zeros((rows * columns, size, size, 3), dtype=np.uint8)
    grid[: len(images)] = images
    picture = grid.reshape(rows, columns, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "WEBP", lossless=True, quality=80, method=4)
    return written.getvalue(), [file.name for file in files]


def _unpacked(picture: bytes, names: list[str], size: int, folder: Path) -> int:
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    images = pixels.reshape(rows, size, columns, size, 3).transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=False):  # the last row may have places to spare
        Image.fromarray(image).save((folder / name).with_suffix(".png"), compress_level=1)
    return len(names)


def pack(
    folder: Annotated[Positional[Path], arg(help="holds train/ and test/ or val/, with a folder of images per class")],
    packed: Annotated[Positional[Path], arg(help="directory for the pieces")],
    pieces: Annotated[int, arg(help="files of about one size")] = 2,
) -> None:
    """Pack an image folder."""
    classes = sorted(path for part in ("train", "val", "test") for path in (folder / part).glob("*") if path.is_dir())
    if not classes:
        raise ValueError(f"{folder} has no class folders in train/, val/ or test/")
    packed.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        pictures = dict(zip(classes, pool.map(_packed, classes), strict=True))
    sizes = [0] * pieces
    holders: list[list[Path]] = [[] for _ in range(pieces)]
    for path in sorted(classes, key=lambda path: -len(pictures[path][0])):
        lightest = sizes.index(min(sizes))
        holders[lightest].append(path)
        sizes[lightest] += len(pictures[path][0])
    for number, held in enumerate(holders):
        with zipfile.ZipFile(packed / f"piece-{number}.zip", "w") as piece:
            for path in held:
                picture, names = pictures[path]
                size = Image.open(next(path.iterdir())).size[0]
                name = f"{path.parent.name}/{path.name}"
                piece.writestr(f"{name}.webp", picture)
                piece.writestr(f"{name}.json", json.dumps({"size": size, "names": names}))
        print(f"{packed / f'piece-{number}.zip'}: {sizes[number] / 1e6:.1f} MB")


def unpack(
    packed: Annotated[Positional[tuple[Path, ...]], arg(help="directories with pieces")],
    folder: Annotated[Path, arg(help="where the image folder is made")],
) -> None:
    """Make an image folder of its pieces; of those that are there."""
    pieces = sorted(file for directory in packed for file in directory.glob("piece-*.zip"))
    if not pieces:
        raise ValueError(f"no piece-*.zip in {', '.join(map(str, packed))}")
    with ProcessPoolExecutor() as pool:
        total = sum(pool.map(_unpacked, *zip(*(entry for piece in pieces for entry in _entries(piece, folder)), strict=True)))
    print(f"{folder}: {total} images")


def _entries(piece: Path, folder: Path) -> Iterator[tuple[bytes, list[str], int, Path]]:
    with zipfile.ZipFile(piece) as opened:
        for name in opened.namelist():
            part, _, of_class = name.removesuffix(".webp").partition("/")
            if not name.endswith(".webp"):
                continue
            if part not in ("train", "val", "test") or Path(of_class).name != of_class or of_class in ("", ".", ".."):
                raise ValueError(f"{piece} holds {name!r}; expected train/, val/ or test/ and a class")
            known = json.loads(opened.read(f"{part}/{of_class}.json"))
            yield opened.read(name), [Path(n).name for n in known["names"]], known["size"], folder / part / of_class


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict({"pack": pack, "unpack": unpack}, description=__doc__)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
