"""Which models are worth having: fronts, ranks, hypervolume, knee, and the best under a limit.

Owns the arithmetic, which is moocore's. Contract, for all of it: a row with a missing value in an objective takes no part; rows
equal in all objectives don't dominate each other, so that all of them are kept; a row dominates another if it is as good in
everything and better in something.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
import pandas as pd

from analysis.objectives import BY_CLASS, OBJECTIVES, chosen, told
from raysp.planning.halving import BEYOND
from raysp.store.figures import COSTS

GROUP = ("dataset", "selection")
"""Rows that differ in these can't be compared: accuracies on other data, or of models that were chosen by the test part."""

DEFAULT_OBJECTIVES = ("val_accuracy", *COSTS)
NEAREST = 3
"""How many rows are named when none meets the limits."""


def pareto_front(table: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES) -> pd.DataFrame:
    """Return the rows that no other row dominates, in their order.

    Args:
        table: with these columns.
        objectives: names in `OBJECTIVES`, which say what is to be large. By default validation accuracy, because test accuracy
            must not choose a model, and ReLUs, MACs and depth.
    """
    maximise = _maximise(objectives)
    complete = table.dropna(subset=list(objectives))
    if complete.empty:
        return complete
    return complete[moocore.is_nondominated(_values(complete, objectives), maximise=maximise, keep_weakly=True)]


def ranks(table: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES) -> pd.Series:
    """Each row's Pareto rank in its group of `GROUP`: 0 on the front, 1 on the front of what is left without it, and so on;
    missing for incomplete rows.
    """
    found = pd.Series(pd.NA, index=table.index, dtype="Int64")
    for _, rows in table.dropna(subset=list(objectives)).groupby(list(GROUP)):
        found[rows.index] = moocore.pareto_rank(_values(rows, objectives), maximise=_maximise(objectives))
    return found


def front_of_each_group(table: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES) -> pd.DataFrame:
    """Every group's own `pareto_front`, one after the other."""
    fronts = [pareto_front(rows, objectives) for _, rows in table.groupby(list(GROUP), sort=True)]
    return pd.concat(fronts) if fronts else table.head(0)


def reference_point(table: pd.DataFrame, objectives: Sequence[str], fixed: Mapping[str, float] | None = None) -> dict[str, float]:
    """The worst corner of the box in which hypervolume is measured: 0 for accuracies, for costs a tenth more than the all-ReLU
    network's, or the largest of several; where a table has none, than the table's largest.

    What is no cost, as the spread over classes, is compared with the table's largest alone: pruned networks have more of it.
    A tenth more, so that the all-ReLU network counts too, and models that are no cheaper in depth or MACs; its own, so that one
    bad model doesn't move everybody's figure. What costs more than the corner counts for nothing.

    Args:
        table: with these columns; `mask_method` tells all-ReLU networks.
        objectives: of the box.
        fixed: the corner's coordinates that are to be these.
    """
    whole = table[table["mask_method"] == "none"] if "mask_method" in table else table.head(0)
    corner = {}
    for o in chosen(objectives):
        scale = whole if o.column not in BY_CLASS and whole[o.column].notna().any() else table
        largest = scale[o.column].max()
        corner[o.column] = 0.0 if o.maximise else BEYOND * float(largest)
    return corner | {column: value for column, value in (fixed or {}).items() if column in corner}


def hypervolume(table: pd.DataFrame, objectives: Sequence[str], reference: Mapping[str, float]) -> float:
    """Share of the box that some row of the table dominates, from 0 to 1.

    The box reaches from the reference point to the ideal one: 100 % accuracy at no cost. Costs are taken as they are, not as
    logarithms. An objective whose reference is 0 (a cost that nobody has) is left out.
    """
    ideal = {o.column: 100.0 if o.maximise else 0.0 for o in chosen(objectives)}
    used = [c for c in objectives if reference[c] != ideal[c]]
    complete = table.dropna(subset=used)
    if complete.empty or not used:
        return 0.0
    worst = np.array([reference[c] for c in used])
    scale = np.array([ideal[c] for c in used]) - worst
    gained = (_values(complete, used) - worst) / scale  # 0 at the reference, 1 at the ideal
    return float(moocore.hypervolume(1.0 - gained.clip(max=1.0), ref=1.0))


def knee(front: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES) -> pd.Series | None:
    """The row of a front that is nearest to having the best of everything; None of an empty front.

    Each objective is scaled to its range on the front; then the nearest row to the ideal corner in Euclid's distance. Of equally
    near rows the first.
    """
    complete = front.dropna(subset=list(objectives))
    if complete.empty:
        return None
    values = _values(complete, objectives) * np.where(_maximise(objectives), -1.0, 1.0)
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    return complete.iloc[int(np.square(scaled).sum(axis=1).argmin())]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `best_under` has found."""

    rows: pd.DataFrame
    """Those that qualify, most accurate first; of equally accurate ones the cheaper."""
    nearest: pd.DataFrame
    """When none does: those that miss the limits by least, with a column `misses` that says how."""


def best_under(table: pd.DataFrame, limits: Mapping[str, float], accuracy: str = "val_accuracy") -> Found:
    """The models that meet all limits.

    Args:
        table: any rows.
        limits: per objective the least accuracy, or the largest cost. Rows without a value there don't qualify.
        accuracy: column to sort by.

    How far a row misses is the sum over the limits of what it lacks or exceeds, as a share of the limit.
    """
    order = [accuracy, *COSTS]
    ranked = table.sort_values(order, ascending=[False] + [True] * len(COSTS), kind="stable")
    excess = pd.DataFrame(index=ranked.index)
    for objective in chosen(list(limits)):
        limit = limits[objective.column]
        over = ranked[objective.column].astype(float) - limit
        excess[objective.column] = (-over if objective.maximise else over).clip(lower=0) / max(abs(limit), 1e-9)
    rows = ranked[(excess == 0).all(axis=1)]
    if len(rows):
        return Found(rows=rows, nearest=ranked.head(0))
    missing = excess.sum(axis=1, skipna=False).dropna().nsmallest(NEAREST, keep="first")
    nearest = ranked.loc[missing.index]
    return Found(rows=rows, nearest=nearest.assign(misses=[_misses(row, limits) for row in nearest.to_dict("records")]))


def _misses(row: Mapping[Any, Any], limits: Mapping[str, float]) -> str:
    said = []
    for column, limit in limits.items():
        objective, value = OBJECTIVES[column], float(row[column])
        if (value < limit) if objective.maximise else (value > limit):
            said.append(f"{objective.short} {told(value)} ({'at least' if objective.maximise else 'at most'} {told(limit)})")
    return ", ".join(said)


def _values(table: pd.DataFrame, objectives: Sequence[str]) -> Any:
    return table[list(objectives)].to_numpy(dtype=float)


def _maximise(objectives: Sequence[str]) -> list[bool]:
    return [o.maximise for o in chosen(objectives)]
