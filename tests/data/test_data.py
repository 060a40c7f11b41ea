import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from raysp.data.config import DataConfig
from raysp.data.sources import DataError, Part, Splits, load_splits, open_source
from raysp.training.batches import Batches


@pytest.fixture
def tree(tmp_path):
    """A small image folder: two classes of ten training and three test images, each of one grey."""
    for part, count in (("train", 10), ("test", 3)):
        for c, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (12, 10), (100 * c + n,) * 3).save(tmp_path / "data" / part / name / f"{n}.png")
    return tmp_path / "data"


def open_folder(path, size=8):
    return open_source(f"imagefolder:{path}", size, path)


def test_digits_are_split_in_proportion_and_always_alike():
    source = open_source("digits", None, None)
    one, two = load_splits(source), load_splits(source)
    assert (len(one.train), len(one.val), len(one.test)) == (1294, 144, 359)
    assert one.train.images.shape == (1294, 1, 8, 8)
    for part in ("train", "val", "test"):
        assert np.array_equal(getattr(one, part).images, getattr(two, part).images)
        counts = np.bincount(getattr(one, part).labels, minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.mean() + 1.5
    values = one.train.images / 255
    assert one.mean == pytest.approx([values.mean()])
    assert one.std == pytest.approx([values.std()])


def test_an_image_folder_is_decoded_resized_and_split(tree):
    source = open_folder(tree)
    splits = load_splits(source)
    assert (source.config.num_classes, splits.train.images.shape) == (2, (18, 3, 8, 8))
    assert sorted(splits.val.labels.tolist()) == [0, 1]
    assert splits.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.test.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]


def test_the_fingerprint_is_of_the_content_not_of_the_place(tree, tmp_path):
    before = open_folder(tree).config
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert open_folder(tmp_path / "elsewhere").config == before
    Image.new("RGB", (12, 10), (7, 8, 9)).save(tree / "train" / "cat" / "0.png")
    assert open_folder(tree).config != before


def test_val_alone_is_the_test_part_and_both_are_both(tree):
    shutil.copytree(tree / "test", tree / "val")
    both = load_splits(open_folder(tree))
    assert (len(both.train), len(both.val), len(both.test)) == (20, 6, 6)
    shutil.rmtree(tree / "test")
    alone = load_splits(open_folder(tree))
    assert (len(alone.train), len(alone.val), len(alone.test)) == (18, 2, 6)


def _break(tree, how):
    if how == "missing":
        shutil.rmtree(tree)
        return str(tree)
    if how == "empty":
        shutil.rmtree(tree)
        tree.mkdir()
        return "holds nothing"
    if how == "a file":
        shutil.rmtree(tree)
        tree.touch()
        return f"{tree} is a file; expected an image folder"
    if how == "a level too high":
        (tree / "inside").mkdir()
        for part in ("train", "test"):
            (tree / part).rename(tree / "inside" / part)
        return f"holds inside; expected train/ and test/ .*; {tree}/inside has them: give that"
    if how == "a level too deep":
        for part in ("train", "test"):
            (tree / part).rename(tree.parent / part)
        return f"holds nothing; expected train/ and test/ .*; {tree.parent} has them: give that"
    if how == "no test":
        shutil.rmtree(tree / "test")
        return "expected train/ and test/"
    if how == "new class":
        (tree / "test" / "emu").mkdir()
        return "lacks: emu"
    if how == "empty class":
        (tree / "train" / "emu").mkdir()
        return "emu holds no image"
    if how == "one class":
        shutil.rmtree(tree / "train" / "cat")
        shutil.rmtree(tree / "test" / "cat")
        return "one class only"
    if how == "no images":
        for file in (tree / "test").rglob("*.png"):
            file.unlink()
        return "test holds no image"
    (tree / "train" / "dog" / "3.png").write_bytes((tree / "train" / "dog" / "3.png").read_bytes()[:50])
    return "train/dog/3.png is not a readable image"


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "empty",
        "a file",
        "a level too high",
        "a level too deep",
        "no test",
        "new class",
        "empty class",
        "one class",
        "no images",
        "cut image",
    ],
)
def test_bad_folders_are_refused_with_the_culprit_named(tree, how):
    message = _break(tree, how)
    with pytest.raises(DataError, match=message):
        load_splits(open_folder(tree))


def test_sixteen_bits_are_scaled_and_hidden_files_passed_over(tree):
    deep = np.full((12, 10), 200 * 256 + 17, dtype=np.uint16)
    Image.fromarray(deep).save(tree / "test" / "cat" / "0.png")
    (tree / "train" / ".cache").mkdir()
    (tree / "train" / ".cache" / "x.png").write_bytes(b"no image")
    (tree / "train" / "cat" / "._0.png").write_bytes(b"no image")
    splits = load_splits(open_folder(tree))
    assert splits.test.images[0].min() == splits.test.images[0].max() == 200
    Image.fromarray(deep.astype(np.float32)).save(tree / "test" / "cat" / "0.tiff")
    with pytest.raises(DataError, match=r"0\.tiff is not a readable image .*range isn't known"):
        load_splits(open_folder(tree))


def test_unknown_data_sets_are_refused_with_the_known_ones():
    with pytest.raises(DataError, match="expected one of digits, cifar10, cifar100, or imagefolder:PATH"):
        open_source("mnist", None, None)


def splits_of(images):
    part = Part(images=images, labels=np.arange(len(images), dtype=np.int64))
    return Splits(train=part, val=part, test=part, mean=[0.0], std=[1.0])


def config(**changes):
    return DataConfig(**{"name": "digits", "num_classes": 10, "channels": 1, "image_size": 4} | changes)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 2])
def test_augmentation_is_a_crop_of_the_padded_and_perhaps_mirrored_image(padding, flip):
    images = np.random.default_rng(0).integers(1, 256, (40, 1, 4, 4), dtype=np.uint8)
    batches = Batches(config(crop_padding=padding, flip=flip), splits_of(images), torch.device("cpu"))
    seen = set()
    for epoch in range(20):
        for got, labels, _ in batches.train(16, seed=3, epoch=epoch):
            for image, label in zip((got * 255).round().to(torch.uint8).numpy(), labels, strict=True):
                padded = np.pad(images[label], ((0, 0), (padding,) * 2, (padding,) * 2))
                crops = {
                    (top, left, mirrored): (crop[:, :, ::-1] if mirrored else crop)
                    for top in range(2 * padding + 1)
                    for left in range(2 * padding + 1)
                    for mirrored in ([False, True] if flip else [False])
                    for crop in [padded[:, top : top + 4, left : left + 4]]
                }
                (found,) = {key for key, crop in crops.items() if np.array_equal(crop, image)} or {None}
                assert found is not None
                seen.add(found)
    assert len(seen) == (2 * padding + 1) ** 2 * (1 + flip)


def test_an_epoch_sees_every_image_once_and_depends_on_seed_and_epoch_alone():
    images = np.zeros((50, 1, 4, 4), dtype=np.uint8)
    batches = Batches(config(), splits_of(images), torch.device("cpu"))

    def order(seed, epoch):
        return torch.cat([labels for _, labels, _ in batches.train(16, seed, epoch)]).tolist()

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_last_batch_of_one_image_is_left_out():
    batches = Batches(config(), splits_of(np.zeros((33, 1, 4, 4), dtype=np.uint8)), torch.device("cpu"))
    assert [len(labels) for _, labels, _ in batches.train(16, 0, 0)] == [16, 16]
    assert batches.num_batches(16) == 2


def test_batches_are_normalised():
    source = open_source("digits", None, None)
    batches = Batches(source.config, load_splits(source), torch.device("cpu"))
    train = torch.cat([images for images, _ in batches.in_order("train")])
    assert abs(float(train.mean())) < 1e-4
    assert abs(float(train.std()) - 1) < 1e-3


def test_a_sample_of_the_training_part_is_unvaried_and_drawn_by_the_seed_alone():
    images = np.arange(33, dtype=np.uint8).reshape(33, 1, 1, 1) * np.ones((1, 1, 4, 4), dtype=np.uint8)
    images[:, :, 0, 0] = 200  # a crop or a mirror image would move it
    batches = Batches(config(), splits_of(images), torch.device("cpu"))

    def drawn(num, seed):
        found = [batch for batch, _ in batches.sample(num, seed, batch_size=5)]
        whole = torch.cat(found)
        assert all(len(batch) == 5 for batch in found[:-1])
        assert torch.equal(whole[:, 0, 0, 0], whole.amax(dim=(1, 2, 3)))
        return whole[:, 0, 1, 1].tolist()

    assert len(set(drawn(12, 0))) == 12
    assert drawn(12, 0) == drawn(12, 0) != drawn(12, 1)
    assert sorted(drawn(99, 0)) == sorted(drawn(33, 1))
    assert len(drawn(99, 0)) == 33


def test_of_two_sweeps_that_start_at_once_one_downloads(tmp_path, monkeypatch):
    downloads = []

    class Downloaded:
        def __init__(self, root, train, download):
            if not (root / "there").exists():
                if not download:
                    raise RuntimeError("not found")
                downloads.append(train)
                time.sleep(0.3)
                (root / "there").touch()
            self.data, self.targets = np.zeros((40, 32, 32, 3), dtype=np.uint8), [n % 10 for n in range(40)]
            self.classes = list("abcdefghij")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    with ThreadPoolExecutor(2) as pool:
        source = open_source("cifar10", None, tmp_path / "new" / "data")
        found = list(pool.map(load_splits, [source, source]))
        assert [len(splits.train) for splits in found] == [36, 36] and found[0].classes == tuple("abcdefghij")
    assert len(downloads) == 1


def test_digits_are_scikit_learns_though_it_is_not_imported(monkeypatch):
    from sklearn.datasets import load_digits

    from raysp.data import sources

    code = "import sys; from raysp.data.sources import _digits_table; _digits_table(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    bunch, table = load_digits(), sources._digits_table()
    assert np.array_equal(table[:, :-1], bunch.data) and np.array_equal(table[:, -1], bunch.target)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)  # a version that keeps them elsewhere
    assert np.array_equal(sources._digits_table(), table)
