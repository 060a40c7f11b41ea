"""Records of a results root as a table, one row per exit of every finished model."""

from pathlib import Path

import pandas as pd

from raysp.store import DamagedFile, Store

COLUMNS = (
    "key",
    "preset",
    "dataset",
    "model",
    "width",
    "seed",
    "mask_method",
    "budget",
    "d_th",
    "gamma",
    "ac_after",
    "exit",
    "relus",
    "macs",
    "depth",
    "params",
    "val_accuracy",
    "test_accuracy",
    "time_s",
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
    table["ac_after"] = table["ac_after"].astype("Int64")
    order = ["dataset", "model", "width", "seed", "mask_method", "budget", "d_th", "gamma", "ac_after", "key", "exit"]
    return table.sort_values(order, kind="stable", ignore_index=True), damaged
