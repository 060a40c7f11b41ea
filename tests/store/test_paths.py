"""Paths as users give them: what can't be is refused in a sentence, whatever flag it stands behind."""

import errno
import os
import re
from pathlib import Path

import pytest

from raysp.data.sources import open_source
from raysp.engine.tracking.wanted import wanted
from raysp.store.location import locate, read_given, write_atomically
from raysp.store.paths import LONGEST, user_path
from raysp.store.remedies import remedy_of

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


@pytest.mark.parametrize("name", ["x" + "é" * 120, os.fsdecode(b"\xff" + b"x" * 150)])
def test_no_name_is_cut_in_the_midst_of_a_character(name, tmp_path):
    names = []
    write_atomically(tmp_path / name, b"x", before_rename=lambda: names.extend(path.name for path in tmp_path.iterdir()))
    (temporary,) = names
    stem = re.fullmatch(r"\.tmp-(.+)-[0-9a-f]{8}", temporary)[1]
    assert name.startswith(stem) and 99 <= len(os.fsencode(stem)) <= 100
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("directory", ["/dev/fd", "/proc/self/fd"])
def test_a_pipe_that_the_process_was_handed_is_read(directory):
    if not Path(directory).is_dir():
        pytest.skip(f"no {directory}")
    reader, writer = os.pipe()
    os.write(writer, b"content")
    os.close(writer)
    try:
        assert read_given(locate(f"{directory}/{reader}"), "a file") == b"content"
    finally:
        os.close(reader)


def test_other_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with Path(os.devnull).open() as device:
        for path in (tmp_path / "pipe", tmp_path, f"/dev/fd/{device.fileno()}", os.devnull):
            with pytest.raises(ValueError, match=f"{path} can't be read: not a plain file; expected a picture"):
                read_given(locate(path), "a picture")
    with pytest.raises(ValueError, match="no /dev/fd/9999; expected a picture"):
        read_given(locate("/dev/fd/9999"), "a picture")


def test_a_place_that_is_mounted_for_reading_is_told_with_what_to_do():
    error = OSError(errno.EROFS, "Read-only file system")
    assert remedy_of(error, {}) == "; give another place, or mount it for writing"
