"""Seeds of one configuration as one point with its spread.

Owns the averaging. Contract: a point is of one network. Seeds whose masks let a threshold gate blocks of other shapes, so that
MACs, depth or parameters differ, are points of their own. `key` names the seed's model that one would deploy, the one with the
best selection accuracy; costs are that model's, but measured ones those of the best seed that was measured. Accuracies, what is
said of them by class, and `time_s` are means over the point's seeds, `<accuracy>_std` the standard deviation with n - 1 (missing
for a single seed).
"""

import pandas as pd

from analysis.objectives import ACCURACIES, BY_CLASS, OBJECTIVES
from analysis.results import MEASURED_PI

MEANS = (*ACCURACIES, *BY_CLASS)
"""Columns that a point has the mean of, with the spread behind it."""
SPREAD = tuple(f"{name}_std" for name in MEANS)
POINT = ("configuration", "exit", "macs", "depth", "params")
"""Rows that agree in these are one point."""


def points_of(table: pd.DataFrame, accuracy: str = "val_accuracy") -> pd.DataFrame:
    """One row per configuration, exit and network.

    Args:
        table: a results table.
        accuracy: column by which the best seed is told; of equally good ones the table's first.

    Returns:
        The table's columns but for `seed`, with `seeds` (how many), `seed_list`, `key_list` and `SPREAD` behind them. The order
        is the table's, by each point's first row.
    """
    numbers = [name for name in table if name in OBJECTIVES or name == "time_s"]
    columns = [name for name in table if name != "seed"]
    if table.empty:
        return table.reindex(columns=[*columns, "seeds", "seed_list", "key_list", *SPREAD])
    values = table.astype(dict.fromkeys(numbers, "float64"))
    values["_point"] = values.groupby(list(POINT), sort=False, dropna=False).ngroup()
    ranked = values.sort_values(accuracy, ascending=False, kind="stable")
    points = ranked.drop_duplicates("_point").sort_values("_point").reset_index(drop=True)
    for name in (name for name in MEASURED_PI if name in table):
        points[name] = ranked.groupby("_point")[name].first()  # of those that have one
    groups = values.groupby("_point")
    for name in (*MEANS, "time_s"):
        points[name] = groups[name].mean()
    points["seeds"] = groups.size()
    points["seed_list"] = groups["seed"].agg(tuple)
    points["key_list"] = groups["key"].agg(tuple)
    points[list(SPREAD)] = groups[list(MEANS)].std(ddof=1).to_numpy()
    for name in (o.column for o in OBJECTIVES.values() if o.is_whole and o.column in numbers):
        if points[name].dropna().mod(1).eq(0).all():
            points[name] = points[name].astype("Int64")
    return points[[*columns, "seeds", "seed_list", "key_list", *SPREAD]]
