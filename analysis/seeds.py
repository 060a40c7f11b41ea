"""Seeds of one configuration as one point with its spread.

Owns the averaging. Contract: accuracies, costs and times are means over the seeds, `<accuracy>_std` their standard deviation with
n - 1 (missing for a single seed), and `key` is the seed's whose model one would deploy: the one with the best selection accuracy.
"""

import pandas as pd

from analysis.objectives import ACCURACIES, OBJECTIVES

SPREAD = tuple(f"{name}_std" for name in ACCURACIES)


def points_of(table: pd.DataFrame, accuracy: str = "val_accuracy") -> pd.DataFrame:
    """One row per configuration and exit.

    Args:
        table: a results table.
        accuracy: column by which the best seed is told.

    Returns:
        The table's columns but for `seed`, with `seeds` (how many), `seed_list`, `key_list` and `SPREAD` behind them. The order
        is the table's, by each configuration's first row. Costs that are whole in every row stay whole numbers unless their mean
        isn't.
    """
    numbers = [name for name in table if name in OBJECTIVES or name == "time_s"]
    columns = [name for name in table if name != "seed"]
    if table.empty:
        return table.reindex(columns=[*columns, "seeds", "seed_list", "key_list", *SPREAD])
    values = table.astype(dict.fromkeys(numbers, "float64"))
    values["_order"] = range(len(values))
    groups = values.groupby(["configuration", "exit"], sort=False, dropna=False)
    points = groups.first().reset_index()
    means = groups[numbers].mean().reset_index(drop=True)
    points[numbers] = means
    points["seeds"] = groups.size().to_numpy()
    points["seed_list"] = groups["seed"].agg(tuple).to_numpy()
    points["key_list"] = groups["key"].agg(tuple).to_numpy()
    spread = groups[list(ACCURACIES)].std(ddof=1).reset_index(drop=True)
    points[list(SPREAD)] = spread.to_numpy()
    best = values.sort_values([accuracy, "_order"], ascending=[False, True], kind="stable").groupby(
        ["configuration", "exit"], sort=False, dropna=False
    )
    chosen = best[["key", "mask_key"]].first().reset_index()
    points = points.drop(columns=["key", "mask_key"]).merge(chosen, on=["configuration", "exit"], how="left")
    for name in (o.column for o in OBJECTIVES.values() if o.is_whole and o.column in numbers):
        if points[name].dropna().mod(1).eq(0).all():
            points[name] = points[name].astype("Int64")
    return points[[*columns, "seeds", "seed_list", "key_list", *SPREAD]]
