"""What is said before training: files in two parts, and classes with next to nothing to learn from."""

import shutil

import numpy as np
import pytest
from images import grey, make_tree, opened

from raysp.data.sources import load_splits
from raysp.data.splitting import held_out, takes_a_class


def test_copies_between_parts_are_counted_with_an_example(tmp_path):
    root = make_tree(tmp_path / "data")
    before = opened(root)
    for n in range(2):
        shutil.copy(root / "train" / "cat" / f"{n}.png", root / "test" / "cat" / f"copy{n}.png")
    for n in range(3):
        shutil.copy(root / "train" / "cat" / f"{n}.png", root / "test" / "dog" / f"copy{n}.png")
    assert before.notes == ()
    assert opened(root).notes == (
        "5 of 11 test images are copies of training images, byte for byte, 3 of them under another class, such as "
        "test/cat/copy0.png of train/cat/0.png: test accuracy flatters",
    )


def test_classes_without_test_images_are_told(tmp_path):
    root = make_tree(tmp_path / "data", classes=("cat", "dog", "emu"))
    shutil.rmtree(root / "test" / "dog")
    assert opened(root).notes == ("1 of 3 classes has no test image: dog",)
    shutil.rmtree(root / "test" / "emu")
    assert opened(root).notes == ("2 of 3 classes have no test image: dog, emu",)


def test_copies_of_what_is_held_out_are_counted(tmp_path):
    root = make_tree(tmp_path / "data")
    source = opened(root)
    entries = source.folder.listing.parts["train"]
    _, held = held_out(np.asarray([entry.label for entry in entries]), 0.1)
    shutil.copy(entries[held[0]].file, tmp_path / "copy.png")
    other = next(entry.file for row, entry in enumerate(entries) if row not in held and entry.label == entries[held[0]].label)
    shutil.copy(tmp_path / "copy.png", other)
    (note,) = opened(root).notes
    assert note.startswith("1 of 2 validation images are copies of training images, byte for byte, such as train/")
    assert note.endswith("validation accuracy flatters")
    assert opened(root, selection="test").notes == ()


def test_copies_between_val_and_test_are_counted(tmp_path):
    root = make_tree(tmp_path / "data")
    shutil.copytree(root / "test", root / "val")
    (note,) = opened(root).notes
    assert note.startswith(
        "6 of 6 test images are copies of validation images, byte for byte, such as test/cat/0.png of val/cat/"
    )


def rare(root, count):
    """Twenty images of each of two classes, and `count` of each of ten rare ones, some of which a random draw would take."""
    make_tree(root, train=20)
    for rare_class in range(10):
        for part, number in (("train", count), ("test", 1)):
            (root / part / f"rare{rare_class}").mkdir(parents=True)
            for n in range(number):
                grey(root / part / f"rare{rare_class}" / f"{n}.png", 100 + 10 * rare_class + n + 5 * (part == "test"))
    return root


@pytest.mark.parametrize("count", [1, 2])
def test_every_class_keeps_an_image_to_learn_from(tmp_path, count):
    source = opened(rare(tmp_path / "data", count))
    splits = load_splits(source)
    assert len(np.unique(splits.train.labels)) == 12
    assert len(splits.val) == round(0.1 * (40 + 10 * count))
    assert source.config.every_class_kept == (count == 1)
    together = np.concatenate([splits.train.images, splits.val.images])
    assert len(np.unique(together.reshape(len(together), -1), axis=0)) == 40 + 10 * count
    if count == 1:
        assert source.notes == ("10 classes have one image to learn from: rare0, rare1, rare2, ...",)
    chosen_on_test = opened(tmp_path / "data", selection="test")
    assert not chosen_on_test.config.every_class_kept
    assert chosen_on_test.config.fingerprint == source.config.fingerprint


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6, 0.9])
def test_giving_back_takes_no_more_than_it_must(fraction):
    for seed in range(20):
        labels = np.sort(np.random.default_rng(seed).geometric(0.3, 40)) - 1
        classes = np.unique(labels)
        kept, held = held_out(labels, fraction, every_class_kept=True)
        assert sorted([*kept, *held]) == list(range(40))
        assert np.array_equal(np.unique(labels[kept]), classes)
        assert len(held) == min(round(fraction * 40), 40 - len(classes))
        plain_kept, plain_held = held_out(labels, fraction)
        if not takes_a_class(labels, fraction):
            assert np.array_equal(held, plain_held) and np.array_equal(kept, plain_kept)


def test_classes_of_one_image_each_give_some_up_so_that_there_is_a_part_to_choose_by():
    kept, held = held_out(np.arange(20), 0.1, every_class_kept=True)
    assert len(kept) == 18 and len(held) == 2
