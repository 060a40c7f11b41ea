"""Small image folders, and what the reader makes of them."""

import os
import struct
import zlib

import numpy as np
from PIL import Image

from raysp.data.sources import open_source


def make_tree(root, classes=("cat", "dog"), train=10, test=3):
    """A folder whose images differ from each other, each of one colour."""
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (12, 10), (60 * label + n, 40, part == "test")).save(root / part / name / f"{n}.png")
    return root


def grey(path, level=0, **options):
    """Write an image of one grey level, by the name's suffix."""
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(path, **options)


def deep_png(values, interlaced=False):
    """A PNG of 16 bits, of values (h, w, channels), which Pillow can't write; an interlaced one, of 8x8 equal pixels."""
    height, width, channels = values.shape
    rows = values.astype(">u2")
    passes = [rows[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [rows]
    lines = b"".join(b"\0" + line.tobytes() for each in passes for line in each)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Where PNG's seven passes begin, and their steps."""


def opened(root, size=8, **options):
    """The source of an image folder."""
    return open_source(f"imagefolder:{root}", size, root, **options)


def old_files(root):
    """Set all files' times back, as those of a folder that was made long ago."""
    for file in root.rglob("*.*"):
        os.utime(file, (1e9, 1e9))
