"""Records of a results root as a table, one row per exit of every finished model."""

from pathlib import Path

import pandas as pd

from raysp.data import DataConfig
from raysp.store import DamagedFile, Store

MEASURED = ("relus", "macs", "depth", "params", "val_accuracy", "test_accuracy", "time_s")
"""Columns that a configuration doesn't have but gets."""

COLUMNS = (
    "key",
    "preset",
    "dataset",
    "model",
    "width",
    "image_size",
    "epochs",
    "seed",
    "selection",
    "mask_method",
    "granularity",
    "mask_start",
    "sensitivity",
    "budget",
    "d_th",
    "gamma",
    "gb_init",
    "kernel_size",
    "ac_after",
    "ac_head",
    "pram",
    "beta",
    "exit",
    *MEASURED,
)
"""Columns of results.csv. Accuracies in percent, budget and relus in ReLU units, time_s in seconds of that stage alone."""


def load_results(root: Path) -> tuple[pd.DataFrame, list[DamagedFile]]:
    """Read all records under a results root.

    Returns:
        The rows in `COLUMNS`, in an order that depends on their content alone, and the records that could not be read.
    """
    records, damaged = Store(root=root).records()
    rows = [
        {**row, "key": record["key"], "preset": record.get("labels", {}).get("preset"), "time_s": round(record["time_s"], 2)}
        for record in records
        for row in record["rows"]
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["selection"] = table["selection"].fillna("val")  # records from before there was a choice
    table["kernel_size"] = table["kernel_size"].astype("Int64")
    table["ac_after"] = table["ac_after"].astype("string")
    order = [name for name in COLUMNS if name not in ("key", "preset", *MEASURED)]
    order += ["key", "exit"]
    return table.sort_values(order, kind="stable", ignore_index=True), damaged


LAYER_COLUMNS = (
    "key",
    "dataset",
    "model",
    "width",
    "image_size",
    "seed",
    "mask_method",
    "granularity",
    "budget",
    "layer",
    "size",
    "kept",
    "d",
    "eta_alpha",
)
"""Columns of layers.csv, a row per ReLU layer of every mask. `d` is kept / size, `eta_alpha` the sensitivity that the budget was
shared out by, if there was one."""


def load_layers(root: Path) -> pd.DataFrame:
    """What every mask under a results root leaves of each ReLU layer, in `LAYER_COLUMNS`."""
    rows = []
    for record in Store(root=root).records()[0]:
        if record["stage"] != "mask":
            continue
        config = record["config"]
        experiment = config["experiment"]
        known = {
            "key": record["key"],
            "dataset": DataConfig(**experiment["data"]).label,
            "model": experiment["model"],
            "width": experiment["width"],
            "image_size": experiment["data"]["image_size"],
            "seed": experiment["seed"],
            "mask_method": config["method"],
            "granularity": config["granularity"],
            "budget": config["budget"],
        }
        rows += [known | layer | {"d": layer["kept"] / layer["size"]} for layer in record["metrics"]["layers"]]
    table = pd.DataFrame(rows, columns=list(LAYER_COLUMNS))
    return table.sort_values(
        ["dataset", "model", "width", "seed", "mask_method", "budget", "key"], kind="stable", ignore_index=True
    )
