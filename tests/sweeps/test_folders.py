"""What a user is told of a folder of images before anything trains."""

import shutil
from collections import defaultdict

import pytest
from commands import sweep_here
from images import grey, make_tree, opened
from toy import toy

from raysp.engine.calibration import Calibration
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep


@pytest.fixture
def root(tmp_path):
    root = make_tree(tmp_path / "data")
    shutil.copy(root / "train" / "cat" / "1.png", root / "test" / "dog" / "copy.png")
    grey(root / "train" / "cat" / "moving.gif")
    return root


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    """Plan a sweep of a folder."""
    monkeypatch.setattr(
        "raysp.engine.forecast.calibrate", lambda *given, **options: Calibration(seconds=defaultdict(lambda: 1.0))
    )

    def plan(name, *arguments):
        given = ("--dataset", name, "--image-size", "8", "--inline", "--plan", *arguments)
        return sweep_here(*given, cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys)

    return plan


def test_a_plan_tells_of_copies_and_of_what_is_passed_over(root, planned):
    done = planned(f"imagefolder:{root}")
    assert done.returncode == 0, done.stderr
    told = "note imagefolder: 1 of 7 test images are copies of training images, byte for byte, 1 of them under another class"
    assert told in done.stdout
    assert "note imagefolder: 1 file passed over (1 .gif)\n" in done.stdout


def test_the_count_line_tells_of_what_is_passed_over(root, tmp_path, console):
    run_sweep([toy(name="one")], tmp_path / "run", [opened(root)], RunOptions(inline=True), labels={}, console=console)
    counted = "imagefolder: 18 train, 2 val, 7 test images in 2 classes; 1 file passed over (1 .gif)\n"
    assert counted in console.file.getvalue()


def test_images_that_do_not_fit_end_a_plan_with_2(root, planned, monkeypatch):
    monkeypatch.setattr("raysp.engine.memory.free_memory", lambda: 100)
    done = planned(f"imagefolder:{root}")
    assert done.returncode == 2
    assert "27 images of 3 x 8 x 8 bytes (imagefolder) take" in done.stderr


def test_broken_files_end_with_2_and_a_line_for_each_kind(root, planned):
    (root / "train" / "cat" / "empty.png").touch()
    (root / "test" / "cat" / "[red]page.png").write_bytes(b"<html>")
    done = planned(f"imagefolder:{root}")
    assert done.returncode == 2
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()[1:]] == ["train/cat/empty.png", "test/cat/[red]page.png"]
