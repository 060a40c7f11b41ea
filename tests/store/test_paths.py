"""Paths as users give them: what can't be is refused in a sentence, whatever flag it stands behind."""

import os
from pathlib import Path

import pytest

from raysp.data.sources import open_source
from raysp.engine.tracking.wanted import wanted
from raysp.store.location import locate, write_atomically
from raysp.store.paths import LONGEST, user_path

LONG = "n" * 300


def _links(directory: Path) -> dict[str, str]:
    """Paths that can't be, and what is said of each."""
    (directory / "gone").symlink_to("nowhere")
    (directory / "round").symlink_to("around")
    (directory / "around").symlink_to("round")
    return {
        str(directory / "gone"): "gone is a link that leads to nowhere, which isn't there; mend the link",
        str(directory / "gone/below"): "gone is a link that leads to nowhere",
        str(directory / "round"): "is a link that leads back to itself; mend the link",
        str(directory / "round/below"): "is a link that leads back to itself",
        str(directory / LONG): "a name in it has 300 bytes, and file systems here take 255 at most; give a shorter one",
        str(directory / "not-there" / ("é" * 150)): "a name in it has 300 bytes",
        str(directory / "/".join(["d" * 200] * 25)): f"and a path here {LONGEST:,} at most; give a shorter one",
    }


TAKES_A_PATH = {
    "--storage": locate,
    "--storage file": lambda text: locate(f"file://{text}"),
    "imagefolder": lambda text: open_source(f"imagefolder:{text}", None, Path("data")),
    "tiny-imagenet": lambda text: open_source(f"tiny-imagenet:{text}", None, Path("data")),
    "huggingface": lambda text: open_source(f"huggingface:{text}", None, Path("data")),
    "--data-dir": lambda text: open_source("cifar10", None, Path(text)),
    "tensorboard": lambda text: wanted(f"tensorboard:{text}"),
}


@pytest.mark.parametrize("flag", TAKES_A_PATH)
def test_what_can_be_nothing_s_path_is_refused_in_a_sentence(flag, tmp_path):
    for path, said in _links(tmp_path).items():
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - all that a path can be wrong by
            TAKES_A_PATH[flag](path)
        assert said in str(refused.value), path
        assert len(str(refused.value)) < 600, "long paths are shown in part"


def test_paths_that_can_be_are_left_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("link/below", "a b", "50%", "#1", "ü\N{SNOWMAN}", "n" * 255, "-", os.fsdecode(b"\xff")):
        assert user_path(tmp_path / name) == tmp_path / name
    monkeypatch.chdir(tmp_path / "real")
    assert user_path("../x") == tmp_path / "real/../x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"


def test_digits_need_no_directory_and_look_at_none(tmp_path):
    (tmp_path / "data").symlink_to("nowhere")
    assert open_source("digits", None, tmp_path / "data").config.name == "digits"


def test_a_directory_that_was_removed_is_told(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(ValueError, match="the current directory was removed; go to another one, or give a whole path"):
        user_path("run")
    assert user_path(tmp_path / "run") == tmp_path / "run"


def test_a_file_s_name_may_be_as_long_as_names_may_be(tmp_path):
    write_atomically(tmp_path / ("n" * 255), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]
