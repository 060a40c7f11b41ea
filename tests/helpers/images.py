"""Small image folders, and what the reader makes of them."""

import os

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


def opened(root, size=8, **options):
    """The source of an image folder."""
    return open_source(f"imagefolder:{root}", size, root, **options)


def old_files(root):
    """Set all files' times back, as those of a folder that was made long ago."""
    for file in root.rglob("*.*"):
        os.utime(file, (1e9, 1e9))
