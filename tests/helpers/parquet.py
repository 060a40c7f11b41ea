"""Small data sets in Hugging Face's layouts, written with pyarrow alone."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raysp.data.huggingface import Columns
from raysp.data.sources import open_source

CLASSES = ("cat", "dog")


def png(*colour, size=(12, 10), **options):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, format="PNG", **options)
    return content.getvalue()


def pictures(count, blue, classes=2):
    """Pictures that differ from each other, and their labels, of all classes in turn."""
    return [(png(60 * (row % classes) + row // classes, 40, blue), row % classes) for row in range(count * classes)]


def table(rows, names=CLASSES, image="image", label="label", **more):
    """A table as the Hub has it: the features stand in its metadata."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": content, "path": None} for content, _ in rows], kind)
    columns = {image: images, label: pa.array([value for _, value in rows])} | more
    features = {image: {"_type": "Image"}}
    if names:
        features[label] = {"names": list(names), "_type": "ClassLabel"}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(root, splits, shards=1, form="data/{split}-{shard:05}-of-{shards:05}.parquet", **options):
    """Write splits' rows as Parquet files, in row groups of five."""
    for split, rows in splits.items():
        for shard, picked in enumerate(np.array_split(np.arange(len(rows)), shards)):
            path = root / form.format(split=split, shard=shard, shards=shards)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table([rows[row] for row in picked], **options), path, row_group_size=5)
    return root


def usual(root, **options):
    """A dozen pictures of each class to train on, three to test with."""
    return write(root, {"train": pictures(12, 0), "test": pictures(3, 1)}, **options)


def write_beside(root, splits, name="{split}-{row}.png"):
    """Write splits as Parquet files whose rows name a picture's file, below the same directory."""
    root.mkdir()
    for split, rows in splits.items():
        made = table(rows)
        paths = [name.format(split=split, row=row) for row in range(len(rows))]
        for path, (content, _) in zip(paths, rows, strict=True):
            (root / path).write_bytes(content)
        images = pa.array([{"bytes": None, "path": path} for path in paths], made.schema.field("image").type)
        pq.write_table(made.set_column(0, made.schema.field("image"), images), root / f"{split}.parquet")
    return root


def save_to_disk(root, splits, names=CLASSES):
    """Write splits as `DatasetDict.save_to_disk` does, two Arrow files for each."""
    root.mkdir()
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for split, rows in splits.items():
        (root / split).mkdir()
        files = [f"data-{shard:05}-of-00002.arrow" for shard in range(2)]
        half = len(rows) // 2
        for file, some in zip(files, (rows[:half], rows[half:]), strict=True):
            made = table(some, names)
            with pa.OSFile(str(root / split / file), "wb") as out, pa.ipc.new_stream(out, made.schema) as stream:
                stream.write_table(made, max_chunksize=4)
        (root / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        (root / split / "dataset_info.json").write_text(json.dumps({"features": features}))
    return root


def opened(root, size=8, image=None, label=None, **options):
    return open_source(f"huggingface:{root}", size, root, columns=Columns(image=image, label=label), **options)
