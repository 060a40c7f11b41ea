"""Reading all files once: what is broken is named at once, what was read is remembered, and a long reading says how far it is."""

import json
import os
import shutil

import pytest
from images import grey, make_tree, old_files, opened
from PIL import Image

from raysp.data import facts, remembered
from raysp.data.sources import DataError, load_splits


def test_all_broken_files_are_named_at_once_by_kind(tmp_path):
    root = make_tree(tmp_path / "data", train=6)
    Image.effect_noise((64, 64), 50).save(root / "train" / "cat" / "cut.jpg")
    whole = (root / "train" / "cat" / "cut.jpg").read_bytes()
    (root / "train" / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "dog" / "empty.jpg").write_bytes(b"")
    for n in range(12):
        (root / "train" / "dog" / f"page{n:02}.jpg").write_bytes(b"\n<!DOCTYPE html><title>404</title>")
    (root / "test" / "cat" / "lfs.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    (root / "test" / "cat" / "annex.jpg").write_bytes(b"/annex/objects/SHA256E-s1--0.jpg\n")
    (root / "test" / "dog" / "zeros.jpg").write_bytes(bytes(500))
    (root / "test" / "dog" / "text.png").write_bytes(b"some text")
    with pytest.raises(DataError) as refused:
        opened(root)
    assert str(refused.value).splitlines() == [
        f"18 files in {root} are not readable images; remove or replace them:",
        "  1 x cut short: train/cat/cut.jpg",
        "  1 x empty: train/dog/empty.jpg",
        "  12 x an HTML page, as a failed download leaves one: train/dog/page00.jpg and 11 more",
        "  1 x a git-annex pointer; git annex get: test/cat/annex.jpg",
        "  1 x a Git LFS pointer; git lfs pull: test/cat/lfs.jpg",
        "  1 x no image of a known format: test/dog/text.png",
        "  1 x nothing but zeros: test/dog/zeros.jpg",
    ]


def test_of_many_that_are_cut_the_first_ten_are_named(tmp_path):
    root = make_tree(tmp_path / "data", train=40)
    for file in (root / "train" / "dog").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    source = opened(root)
    with pytest.raises(DataError) as refused:
        load_splits(source)
    names = ", ".join(file.relative_to(root).as_posix() for file in sorted((root / "train" / "dog").iterdir())[:10])
    assert str(refused.value).endswith(f": {names} and 30 more")


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The files that were read, with a cache of its own in which even short readings are kept."""
    read = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "WORTH_S", 0)
    monkeypatch.setattr(remembered, "SETTLED_S", -60)
    look = facts.look
    monkeypatch.setattr("raysp.data.imagefolder.look", lambda file: (read.append(file.name), look(file))[1])
    return read


def test_a_second_start_reads_only_what_has_changed(tmp_path, counted, monkeypatch):
    root = make_tree(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 6
    grey(root / "train" / "cat" / "turned.jpg", exif=exif)
    first = opened(root)
    assert len(counted) == 27
    counted.clear()
    again = opened(root)
    assert counted == [] and again.config == first.config and again.notes == first.notes
    monkeypatch.chdir(tmp_path)
    assert opened("data").config == first.config and counted == []
    grey(root / "train" / "cat" / "0.png", 99)
    changed = opened(root)
    assert counted == ["0.png"] and changed.config != first.config
    counted.clear()
    shutil.move(root, tmp_path / "moved")
    assert opened(tmp_path / "moved").config == changed.config and len(counted) == 27


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "files": {}}'])
def test_a_cache_that_is_damaged_or_of_other_rules_is_passed_over(tmp_path, counted, damage):
    root = make_tree(tmp_path / "data")
    config = opened(root).config
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(damage)
    counted.clear()
    assert opened(root).config == config and len(counted) == 26
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "pillow": "0.1"}))
    counted.clear()
    assert opened(root).config == config and len(counted) == 26


@pytest.mark.parametrize("how", ["a file in its place", "no home"])
def test_a_cache_that_cannot_be_written_is_no_matter(tmp_path, counted, how, monkeypatch):
    if how == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)
    else:
        (tmp_path / "cache").write_bytes(b"")
    root = make_tree(tmp_path / "data")
    assert opened(root).config == opened(root).config and len(counted) == 52


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(remembered, "SETTLED_S", 60)
    root = make_tree(tmp_path / "data")
    old_files(root)  # the times that one can set are old, the one that one can't set isn't
    opened(root)
    counted.clear()
    opened(root)
    assert len(counted) == 26


def test_a_long_reading_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    from raysp.command.terminal import tell_reading

    told = []
    root = make_tree(tmp_path / "data")
    opened(root, tell=lambda done, of: told.append((done, of)))
    assert told == []
    monkeypatch.setattr(facts, "TOLD_AFTER_S", 0)
    monkeypatch.setattr(facts, "BUNDLE", 10)
    opened(root, tell=lambda done, of: told.append((done, of)))
    assert told == [(10, 26), (20, 26), (26, 26)]
    tell_reading(13, 26)
    assert capsys.readouterr().err == "reading images: 13 of 26 files (50 %)\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_without_permission_are_named_too(tmp_path):
    root = make_tree(tmp_path / "data")
    (root / "train" / "dog" / "1.png").chmod(0)
    with pytest.raises(DataError, match=r"train/dog/1\.png is not a readable image .*Permission denied"):
        opened(root)
