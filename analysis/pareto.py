"""Which models are worth having: the non-dominated rows."""

import moocore
import pandas as pd

COSTS = ("relus", "macs", "depth")
"""Columns to minimise, beside the accuracy to maximise."""


def pareto_front(table: pd.DataFrame, *, accuracy: str = "val_accuracy", costs: tuple[str, ...] = COSTS) -> pd.DataFrame:
    """Return the rows that no other row dominates: none is as good in everything and better in something.

    Rows of equal accuracy and costs are all kept. Rows with a missing value are left out.

    Args:
        table: a results table.
        accuracy: column to maximise; validation accuracy, because test accuracy must not choose a model.
        costs: columns to minimise.
    """
    columns = [accuracy, *costs]
    complete = table.dropna(subset=columns)
    if complete.empty:
        return complete
    points = complete[columns].to_numpy(dtype=float)
    kept = moocore.is_nondominated(points, maximise=[True] + [False] * len(costs), keep_weakly=True)
    return complete[kept]


def by_dataset(table: pd.DataFrame, costs: tuple[str, ...] = COSTS) -> pd.DataFrame:
    """Each data set's own `pareto_front`, one after the other: accuracies on different data can't be compared.

    Nor can those of models that were selected on the test part with others': they have fronts of their own.
    """
    fronts = [pareto_front(rows, costs=costs) for _, rows in table.groupby(["dataset", "selection"], sort=True)]
    return pd.concat(fronts) if fronts else table.head(0)
