"""Data sets of Hugging Face's layouts."""

import errno
import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parquet import opened, pictures, png, save_to_disk, table, usual, write, write_beside
from PIL import Image

from raysp.data.huggingface import Columns, list_huggingface
from raysp.data.listing import FolderError
from raysp.data.sources import DataError, load_splits, open_source, part_sizes


def test_a_parquet_directory_is_decoded_resized_and_split(tmp_path):
    source = opened(usual(tmp_path))
    splits = load_splits(source)
    assert source.config.name == "huggingface" and source.config.num_classes == 2 and source.notes == ()
    assert splits.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (22, 2, 6)
    assert part_sizes(source) == {"train": 22, "val": 2, "test": 6}
    assert splits.train.images.shape == (22, 3, 8, 8)
    for part, blue in ((splits.train, 0), (splits.val, 0), (splits.test, 1)):
        assert (part.images[:, 2] == blue).all()
        assert (part.images[:, 0, 0, 0] // 60 == part.labels).all()


def test_the_identity_is_of_the_pictures_not_of_their_files(tmp_path):
    first = opened(usual(tmp_path / "a"))
    others = [
        opened(usual(tmp_path / "b", shards=3)),
        opened(usual(tmp_path / "c", form="default/{split}/{shard:04}.parquet")),
        opened(usual(tmp_path / "d", image="img", label="fine", shards=2)),
        opened(save_to_disk(tmp_path / "e", {"train": pictures(12, 0), "test": pictures(3, 1)})),
    ]
    for other in others:
        assert other.config == first.config
        assert (load_splits(other).train.images == load_splits(first).train.images).all()
    rows = pictures(12, 0)
    changed = [
        {"train": [*rows[:-1], (png(1, 2, 3), 1)], "test": pictures(3, 1)},
        {"train": [*rows[:-1], (rows[-1][0], 0)], "test": pictures(3, 1)},
    ]
    fingerprints = {opened(write(tmp_path / f"x{number}", each)).config.fingerprint for number, each in enumerate(changed)}
    assert len(fingerprints | {first.config.fingerprint}) == 3


def test_validation_alone_is_the_test_part_and_both_are_both(tmp_path):
    alone = load_splits(opened(write(tmp_path / "a", {"train": pictures(12, 0), "validation": pictures(3, 1)})))
    assert (len(alone.train), len(alone.val), len(alone.test)) == (22, 2, 6)
    every = {"train": pictures(12, 0), "valid": pictures(2, 1), "test": pictures(3, 2)}
    both = load_splits(opened(write(tmp_path / "b", every)))
    assert (len(both.train), len(both.val), len(both.test)) == (24, 4, 6)
    chosen = load_splits(opened(write(tmp_path / "c", every), selection="test"))
    assert (len(chosen.train), len(chosen.val), len(chosen.test)) == (24, 6, 6)


def test_a_test_part_without_labels_is_told_and_validation_takes_its_place(tmp_path):
    hidden = [(content, -1) for content, _ in pictures(3, 2)]
    source = opened(write(tmp_path, {"train": pictures(12, 0), "validation": pictures(2, 1), "test": hidden}))
    assert source.notes == ("test has no labels: not read",)
    assert len(load_splits(source).test) == 4


@pytest.mark.parametrize("with_validation", [True, False])
def test_a_test_part_without_the_column_of_labels_is_as_one_without_labels(tmp_path, with_validation):
    rows = {"train": pictures(12, 0)} | ({"validation": pictures(2, 1)} if with_validation else {})
    write(tmp_path, rows, form="{split}.parquet")
    pa.parquet.write_table(table(pictures(3, 2)).drop_columns("label"), tmp_path / "test.parquet")
    if with_validation:
        source = opened(tmp_path)
        assert source.notes == ("test has no column of labels: not read",)
        assert len(load_splits(source).test) == 4 and load_splits(source).classes == ("cat", "dog")
    else:
        with pytest.raises(
            DataError,
            match=r"has train \(with labels\), test \(no column of labels\); expected train with labels",
        ):
            opened(tmp_path)


def test_classes_by_name_or_number_need_no_features(tmp_path):
    named = {split: [(content, "cd"[label]) for content, label in rows] for split, rows in usual_rows().items()}
    assert load_splits(opened(write(tmp_path / "a", named, names=()))).classes == ("c", "d")
    numbered = {split: [(content, 7 * label) for content, label in rows] for split, rows in usual_rows().items()}
    source = opened(write(tmp_path / "b", numbered, names=()))
    assert load_splits(source).classes == ("0", "7") and set(load_splits(source).train.labels) == {0, 1}


def usual_rows():
    return {"train": pictures(12, 0), "test": pictures(3, 1)}


def test_categories_are_labels(tmp_path):
    for split, rows in usual_rows().items():
        made = table(rows, names=())
        labels = pa.array(["dc"[label] for _, label in rows]).dictionary_encode()
        pa.parquet.write_table(made.set_column(1, "label", labels), tmp_path / f"{split}.parquet")
    source = opened(tmp_path)
    assert load_splits(source).classes == ("c", "d") and source.config.num_classes == 2


def test_parts_that_the_hub_has_converted_partially_are_told(tmp_path):
    rows = usual_rows()
    write(tmp_path, {"train": rows["train"]}, form="default/partial-{split}/{shard:04}.parquet")
    write(tmp_path, {"test": rows["test"]}, form="default/{split}/{shard:04}.parquet")
    assert opened(tmp_path).notes == ("train is partial by its name: the Hub has converted the first rows of it alone",)


def test_files_may_be_numbered_from_one(tmp_path):
    root = usual(tmp_path / "a", shards=3)
    for shard in reversed(range(3)):
        (root / f"data/train-{shard:05}-of-00003.parquet").rename(root / f"data/train-{shard + 1:05}-of-00003.parquet")
    assert opened(root).config == opened(usual(tmp_path / "b")).config


def test_a_class_without_images_is_told(tmp_path):
    source = opened(usual(tmp_path, names=("cat", "dog", "emu")))
    assert source.notes == ("1 of 3 classes have no training image: emu",) and source.config.num_classes == 3


def test_columns_are_asked_for_where_they_can_not_be_guessed(tmp_path):
    rows = usual_rows()
    for split, each in rows.items():
        made = table(each, names=(), image="left", label="fine")
        made = made.append_column("right", made.column("left")).append_column("coarse", pa.array([0, 1] * (len(each) // 2)))
        (tmp_path / split).mkdir()
        pa.parquet.write_table(made.replace_schema_metadata(None), tmp_path / split / "0000.parquet")
    with pytest.raises(DataError, match="2 columns that may hold images: left, right; name one with --image-column"):
        opened(tmp_path)
    with pytest.raises(DataError, match="2 columns that may hold labels: fine, coarse; name one with --label-column"):
        opened(tmp_path, image="left")
    with pytest.raises(DataError, match="no column 'middle'; expected one of left, fine, right, coarse for --image-column"):
        opened(tmp_path, image="middle", label="fine")
    with pytest.raises(DataError, match=r"column left .* holds struct.*expected numbers or names for --label-column"):
        opened(tmp_path, image="right", label="left")
    one, other = (opened(tmp_path, image="left", label=label).config for label in ("fine", "coarse"))
    assert one == other, "the same classes of the same pictures"
    with pytest.raises(DataError, match="has no columns"):
        open_source("digits", 8, tmp_path, columns=Columns(image="left"))
    with pytest.raises(DataError, match="has no columns"):
        open_source(f"imagefolder:{tmp_path}", 8, tmp_path, columns=Columns(label="fine"))


def test_pictures_are_prepared_as_those_of_folders(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))).save(turned, format="PNG", exif=exif)
    clear = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 255, 0, 0)).save(clear, format="PNG")
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(deep, format="PNG")
    special = [(content.getvalue(), 0) for content in (turned, clear, deep)]
    source = opened(write(tmp_path / "a", {"train": pictures(12, 0), "test": [*special, *pictures(1, 1)]}))
    assert [note.partition(" ")[2] for note in source.notes] == [
        "image is turned as the EXIF orientation says",
        "areas of 1 image are put on grey (128 of 255)",
        "pixel of 1 16-bit image uses more than 12 bits: the upper 8 of these are taken",
    ]
    test = load_splits(source).test.images
    assert test[0, 0, 0, 0] == 0 and test[0, 0, 7, 0] == 210 and (test[1] == 128).all() and (test[2] == 255).all()


def test_copies_between_parts_are_told(tmp_path):
    rows = pictures(12, 0)
    (note,) = opened(write(tmp_path, {"train": rows, "test": [*rows[:2], *pictures(3, 1)]})).notes
    assert "2 of 8 test images are copies of training images" in note and "test/cat/0 of train/cat/0" in note


def test_all_broken_pictures_are_named_at_once(tmp_path):
    rows = pictures(12, 0)
    rows[3], rows[8], rows[9] = (b"", 1), (rows[8][0][:45], 0), (None, 1)
    with pytest.raises(DataError, match="3 files") as refused:
        opened(write(tmp_path, {"train": rows, "test": pictures(3, 1)}))
    for name in ("train/dog/3", "train/cat/8", "train/dog/9", "the row holds no image", "empty"):
        assert name in str(refused.value)


def test_pictures_may_lie_beside_the_table_but_not_elsewhere(tmp_path):
    root = write_beside(tmp_path / "beside", usual_rows())
    assert opened(root).config == opened(usual(tmp_path / "usual")).config
    write_beside(root / "data", {"test": pictures(3, 1)}, name="../../x.png")
    (root / "data" / "test.parquet").replace(root / "test.parquet")
    with pytest.raises(DataError, match="outside the data set"):
        opened(root)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nothing", "no .parquet file whose name"),
        ("no test", "has train (with labels); expected train with labels in the column label, and test or validation"),
        ("no train", "has test (with labels); expected train with labels"),
        ("an empty test", "has train (with labels), test (no rows); expected train with labels"),
        ("an empty train", "has train (no rows), test (with labels); expected train with labels"),
        ("labels of nothing", "has train (with labels), test (no labels); expected"),
        ("a table's file", "{root}/train.parquet is a file; expected its directory, such as huggingface:{root}"),
        ("another file", "{root}/notes.txt is a file; expected a directory with .parquet files"),
        ("several", "several data sets: fine, plain; name one of them"),
        ("one class", "images of 1 class; expected at least 2"),
        ("a class too many", "is of class 5, which has no name"),
        ("a name too many", "is of class 'f', which train lacks"),
        ("no label", "row 24 of train in {root} has no label; remove"),
        ("a label of nothing", "row 6 of test in {root} has no label; remove"),
        ("a file too few", "{root} lacks data/train-00001-of-00003.parquet, as the files beside say"),
        ("files of older names too few", "{root} lacks train-00000-of-00004.parquet, train-00001-of-00004.parquet, as"),
        ("garbage", "{root}/train.parquet can't be read: it is no table"),
        ("garbage to test with", "{root}/test.parquet can't be read: it is no table"),
        ("a pointer", "{root}/train.parquet can't be read: a Git LFS pointer; git lfs pull"),
        ("no file", "{root}/test/data-00001-of-00002.arrow can't be read: No such file"),
        ("labels in some files", "{root}/test-1.parquet can't be read: it has no column label"),
        ("one part saved", "expected what a DatasetDict"),
        ("a part saved is gone", "{root} is not whole: test/state.json: No such file or directory; save the data set again"),
        (
            "a part saved is torn",
            "{root} is not whole: test/state.json: it is no JSON: line 1, column 1; save the data set again",
        ),
        ("a part saved tells no files", "{root} is not whole: test/state.json: it has no _data_files; save"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_culprit_named(tmp_path, how, said):
    rows = usual_rows()
    match how:
        case "nothing":
            (tmp_path / "other.txt").touch()
        case "no test":
            write(tmp_path, {"train": rows["train"]})
        case "no train":
            write(tmp_path, {"test": rows["test"]})
        case "an empty test":
            write(tmp_path, {"train": rows["train"]}, form="{split}.parquet")
            pq.write_table(table(rows["test"]).slice(0, 0), tmp_path / "test.parquet")
        case "an empty train":
            write(tmp_path, {"test": rows["test"]}, form="{split}.parquet")
            pq.write_table(table(rows["test"]).slice(0, 0), tmp_path / "train.parquet")
        case "labels of nothing":
            write(tmp_path, rows | {"test": [(content, -1) for content, _ in rows["test"]]})
        case "a table's file":
            usual(tmp_path, form="{split}.parquet")
            tmp_path /= "train.parquet"
        case "another file":
            tmp_path /= "notes.txt"
            tmp_path.touch()
        case "several":
            usual(tmp_path, form="plain/{split}.parquet")
            usual(tmp_path, form="fine/{split}.parquet")
        case "one class":
            write(tmp_path, {split: [(content, 0) for content, _ in each] for split, each in rows.items()})
        case "a class too many":
            write(tmp_path, {"train": [*rows["train"], (png(9, 9, 9), 5)], "test": rows["test"]})
        case "a name too many":
            named = {split: [(content, "cd"[label]) for content, label in each] for split, each in rows.items()}
            write(tmp_path, named | {"test": [(png(9, 9, 9), "f")]}, names=())
        case "no label":
            write(tmp_path, {"train": [*rows["train"], (png(9, 9, 9), None)], "test": rows["test"]})
        case "a label of nothing":
            write(tmp_path, rows | {"test": [*rows["test"], (png(9, 9, 9), -1)]})
        case "a file too few":
            (usual(tmp_path, shards=3) / "data" / "train-00001-of-00003.parquet").unlink()
        case "files of older names too few":
            usual(tmp_path, shards=4, form="{split}-{shard:05}-of-{shards:05}-0a1b2c3d4e5f6789.parquet")
            for shard in range(2):
                (tmp_path / f"train-{shard:05}-of-00004-0a1b2c3d4e5f6789.parquet").unlink()
        case "garbage":
            (tmp_path / "train.parquet").write_bytes(b"no table")
        case "garbage to test with":
            usual(tmp_path, form="{split}.parquet")
            (tmp_path / "test.parquet").write_bytes(b"no table")
        case "a pointer":
            usual(tmp_path, form="{split}.parquet")
            (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        case "no file":
            tmp_path = save_to_disk(tmp_path / "saved", rows)
            (tmp_path / "test" / "data-00001-of-00002.arrow").unlink()
        case "labels in some files":
            usual(tmp_path, shards=2, form="{split}-{shard}.parquet")
            pa.parquet.write_table(table(rows["test"]).drop_columns("label"), tmp_path / "test-1.parquet")
        case "one part saved":
            (tmp_path / "state.json").write_text("{}")
        case "a part saved is gone":
            (save_to_disk(tmp_path / "saved", rows) / "test" / "state.json").unlink()
            tmp_path /= "saved"
        case "a part saved is torn" | "a part saved tells no files":
            tmp_path = save_to_disk(tmp_path / "saved", rows)
            (tmp_path / "test" / "state.json").write_text("" if how == "a part saved is torn" else "{}")
    with pytest.raises(DataError) as refused:
        opened(tmp_path)
    root = tmp_path.parent if tmp_path.is_file() else tmp_path
    assert said.format(root=root) in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.fixture
def remembering(tmp_path, monkeypatch):
    """All facts are kept, of files however new."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("raysp.data.remembered.WORTH_S", 0.0)
    monkeypatch.setattr("raysp.data.remembered.SETTLED_S", -1e9)


@pytest.mark.usefixtures("remembering")
def test_facts_are_remembered_until_a_table_changes(tmp_path, monkeypatch):
    root = usual(tmp_path / "data")
    first = opened(root).config
    read = []
    with monkeypatch.context() as patch:
        patch.setattr("raysp.data.tables.Row.read_bytes", lambda row: read.append(row) or b"")
        assert opened(root).config == first and not read
    changed = opened(write(root, {"test": pictures(3, 2)})).config
    assert changed != first and changed == opened(write(usual(tmp_path / "new"), {"test": pictures(3, 2)})).config


@pytest.mark.usefixtures("remembering")
def test_facts_are_of_a_column_and_a_place_in_a_table(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for split, rows in usual_rows().items():
        others = table([(png(7, 7, row), label) for row, (_, label) in enumerate(rows)])
        made = table(rows, image="left").append_column("right", others.column("image"))
        pa.parquet.write_table(made, root / f"{split}.parquet")
    left, right, again = (opened(root, image=image).config for image in ("left", "right", "left"))
    assert left == again and left != right
    root = write(tmp_path / "more", {"train": pictures(12, 0), "test": pictures(3, 1)}, form="{split}/1.parquet")
    opened(root)
    both = {
        split: opened(write(path, {"train": pictures(2, 3)}, form="{split}/0.parquet")).config
        for split, path in (("seen before", root), ("new", usual(tmp_path / "unseen", form="{split}/1.parquet")))
    }
    assert both["seen before"] == both["new"], "the rows of a table have moved in the part"


@pytest.mark.usefixtures("remembering")
def test_a_picture_beside_a_table_is_read_anew(tmp_path):
    root = write_beside(tmp_path / "data", usual_rows())
    first = opened(root).config
    assert opened(root).config == first
    (root / "test-0.png").write_bytes(png(9, 9, 9))
    assert opened(root).config != first


@pytest.mark.parametrize(
    "told", ["[]", "null", '{"info": null}', '{"info": {"features": []}}', "{", '{"info": {"features": null}}']
)
def test_a_damaged_description_is_told_in_a_line_or_done_without(tmp_path, told):
    usual(tmp_path / "set")
    for path in (tmp_path / "set").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": told}), path)
    with suppress(FolderError):
        list_huggingface(str(tmp_path / "set"), Columns())


def test_a_directory_that_can_not_be_entered_is_named(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    usual(tmp_path / "closed" / "set")
    look = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **options: (refuse if "set" in path.parts else look)(path, **options))
    with pytest.raises(FolderError, match=f"{tmp_path}/closed/set can't be read: Permission denied"):
        list_huggingface(str(tmp_path / "closed" / "set"), Columns())
