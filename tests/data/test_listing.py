"""What lies in a folder: what is read, what is passed over with a word, and classes whose names only look alike."""

import errno
import shutil
import unicodedata
from pathlib import Path

import pytest
from images import grey, make_tree, opened

from raysp.data.sources import DataError, load_splits, open_source

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_what_is_passed_over_is_counted_by_kind_and_jpegs_by_other_names_are_read(tmp_path):
    root = make_tree(tmp_path / "data")
    before = opened(root).config
    for n in range(3):
        grey(root / "train" / "cat" / f"anim{n}.gif")
    for name in ("photo", ".hidden", "readme.TXT"):
        (root / "train" / "dog" / name).write_bytes(b"text")
    (root / "test" / "notes.csv").write_bytes(b"1,2")
    grey(root / "test" / "lost.png")
    source = opened(root)
    assert source.config == before
    kinds = source.passed_over.removeprefix("7 files passed over (3 .gif, ").removesuffix(")")
    assert sorted(kinds.split(", ")) == ["1 .csv in no class folder", "1 .png in no class folder", "1 .txt", "1 without a suffix"]
    assert source.notes == ()
    grey(root / "train" / "cat" / "web.jfif", 7, format="JPEG")
    grey(root / "train" / "cat" / "web.JPE", 9, format="JPEG")
    assert len(opened(root).folder.listing.parts["train"]) == 22


def test_linked_folders_are_followed_once_and_links_that_never_end_are_told(tmp_path):
    root = make_tree(tmp_path / "data")
    before = opened(root).config
    (root / "train" / "cat" / "again").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "up").symlink_to(root)
    source = opened(root)
    assert source.config == before
    assert source.passed_over == "2 files passed over (2 linked in a circle)"
    more = tmp_path / "more"
    more.mkdir()
    grey(more / "a.png")
    (more / "back").symlink_to(more)
    for name in ("one", "two"):
        (root / "train" / "cat" / name).symlink_to(more)
    files = [entry.file for entry in opened(root).folder.listing.parts["train"]]
    assert len(files) == 21 and root / "train" / "cat" / "one" / "a.png" in files


def test_links_to_nowhere_are_named(tmp_path):
    root = make_tree(tmp_path / "data")
    for n in range(2):
        (root / "train" / "cat" / f"annex{n}.png").symlink_to("../.git/annex/objects/x.png")
    told = "2 .png names are links to files that are not here (git-annex, DVC?): fetch them"
    assert opened(root).notes == (told,)
    (root / "train" / "emu").symlink_to("/nowhere/emu")
    assert opened(root).notes == (told.replace("png names", "png, 1 suffixless names"),)
    for file in (root / "train" / "cat").glob("?.png"):
        file.unlink()
    with pytest.raises(DataError) as refused:
        opened(root)
    assert f"train/cat holds no image: {told}" in str(refused.value)


@pytest.mark.parametrize("forms", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_composed_and_decomposed_names_are_one_class(tmp_path, forms):
    root = make_tree(tmp_path / "data", classes=(forms[0], "thé"))
    (root / "test" / forms[0]).rename(root / "test" / "x")
    (root / "test" / "x").rename(root / "test" / forms[1])
    splits = load_splits(opened(root))
    assert splits.classes == (forms[0], "thé") and sorted(splits.test.labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_one_class_in_two_forms_in_one_part_is_one_class(tmp_path):
    root = make_tree(tmp_path / "data", classes=(COMPOSED, DECOMPOSED, "thé"))
    if len(list((root / "train").iterdir())) == 2:
        pytest.skip("this file system takes both forms for one name")
    source = opened(root)
    assert source.config.num_classes == 2
    assert sorted(load_splits(source).test.labels.tolist()) == [0] * 6 + [1] * 3


def test_folders_that_nothing_reads_are_named(tmp_path):
    root = make_tree(tmp_path / "data")
    shutil.copytree(root / "test", root / "valid")
    source = opened(root)
    assert source.notes == (f"valid in {root}: not read; the parts are called train, test and val",)
    (root / "valid").rename(root / "val")
    assert len(opened(root).folder.listing.parts["val"]) == 6


def test_a_class_in_other_capitals_is_refused_with_its_like(tmp_path):
    root = make_tree(tmp_path / "data", classes=("Cat", "dog"))
    (root / "test" / "Cat").rename(root / "test" / "x")
    (root / "test" / "x").rename(root / "test" / "cat")
    with pytest.raises(DataError, match=r"train lacks: cat \(which has Cat\);"):
        opened(root)


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    (root / "val" / "images").mkdir(parents=True)
    (root / "test" / "images").mkdir(parents=True)
    for label, wnid in enumerate(("n001", "n002")):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
        for n in range(10):
            grey(root / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", 100 * label + n)
        for n in range(2):
            name = f"val_{2 * n + 1 - label}.JPEG"
            grey(root / "val" / "images" / name, 50 + 100 * label + n)
            lines.append(f"{name}\t{wnid}\t0\t0\t8\t8\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    grey(root / "test" / "images" / "test_0.JPEG")
    return root


def test_tiny_imagenet_is_read_as_it_unpacks(tiny):
    source = open_source(f"tiny-imagenet:{tiny}", None, tiny)
    splits = load_splits(source)
    assert (source.config.name, source.config.image_size, source.config.num_classes) == ("tiny-imagenet", 64, 2)
    assert splits.classes == ("n001", "n002") and (len(splits.train), len(splits.val), len(splits.test)) == (18, 2, 4)
    assert splits.test.labels.tolist() == [1, 0, 1, 0]  # by name: val_0 is the second class'
    assert [round(level, -1) for level in splits.test.images[:, 0, 0, 0].tolist()] == [150, 50, 150, 50]
    assert open_source(f"tiny-imagenet:{tiny.parent}", None, tiny).config == source.config
    assert source.passed_over == ""
    with pytest.raises(DataError, match=f"give it as tiny-imagenet:{tiny}"):
        opened(tiny)


def test_a_tiny_imagenet_that_is_not_whole_is_refused(tiny):
    annotations = tiny / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    for content, message in (
        (whole + "gone.JPEG\tn001\t0\n", r"line 5: .*gone.JPEG is not here"),
        (whole + "val_0.JPEG\tn009\t0\n", "line 5: class 'n009', which train/ lacks"),
        ("", "names no image"),
    ):
        annotations.write_text(content)
        with pytest.raises(DataError, match=message):
            open_source(f"tiny-imagenet:{tiny}", None, tiny)
    annotations.unlink()
    with pytest.raises(DataError, match=r"no val/val_annotations\.txt"):
        open_source(f"tiny-imagenet:{tiny}", None, tiny)
    shutil.rmtree(tiny / "train")
    with pytest.raises(DataError, match="no train/"):
        open_source(f"tiny-imagenet:{tiny}", None, tiny)


def test_a_folder_that_can_not_be_entered_is_not_looked_into_for_the_parts(tmp_path, monkeypatch):
    for name in ("lost+found", "pictures/train/cat", "pictures/test/cat"):
        (tmp_path / "root" / name).mkdir(parents=True)
    look = Path.is_dir

    def is_dir(path):
        if path.parent.name == "lost+found" or (path.parent == tmp_path and path.name in ("train", "test", "val")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    with pytest.raises(DataError, match=r"holds lost\+found, pictures; expected .*; \S+/root/pictures has them: give that"):
        opened(tmp_path / "root")
    shutil.rmtree(tmp_path / "root" / "pictures")
    with pytest.raises(DataError, match=r"holds lost\+found; expected train/ and test/ or val/ .* in each$"):
        opened(tmp_path / "root")
