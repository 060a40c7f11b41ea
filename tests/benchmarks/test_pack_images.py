"""Image folders as few files, and back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PACK_IMAGES = Path(__file__).parents[2] / "benchmarks" / "pack_images.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(PACK_IMAGES), *map(str, arguments)], capture_output=True, text=True, timeout=120)


def folder_of(path, counts, size):
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path / name / f"{number:03}.png")
    return path


def pixels(path):
    return {str(file.relative_to(path)): np.asarray(Image.open(file)).tolist() for file in path.rglob("*.png")}


def test_unpacked_images_are_those_that_were_packed(tmp_path):
    # At 200 pixels a picture holds 81 rows, so that 83 images take two columns and leave a place to spare.
    folder = folder_of(tmp_path / "a", {"train/one": 83, "train/two": 1, "test/one": 2}, 200)
    assert run("pack", folder, tmp_path / "packed", "--pieces", 2).returncode == 0
    assert len(list((tmp_path / "packed").iterdir())) == 2
    done = run("unpack", tmp_path / "packed", "--folder", tmp_path / "b")
    assert "86 images" in done.stdout
    assert pixels(tmp_path / "b") == pixels(folder)


@pytest.mark.parametrize("what", ["sizes", "nothing"])
def test_what_cannot_be_packed_is_named(what, tmp_path):
    if what == "sizes":
        folder_of(tmp_path / "a", {"train/one": 1}, 8)
        Image.new("RGB", (9, 9)).save(tmp_path / "a" / "train" / "one" / "other.png")
    done = run("pack", tmp_path / "a", tmp_path / "packed")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and str(tmp_path / "a") in done.stderr
