"""What models would take under protocols of private inference, side by side, and in which order each of these puts them.

Owns the choice of protocols, the comparison of their orders, and what must be said of it. `raysp.latency.estimates` makes the
estimates; CHEETAH's costs are predicted from measured layers (`analysis.predictions`). Contract: nothing here becomes a column of
the results; a model that can't be estimated is left open, and why is said once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.pareto import GROUP
from analysis.predictions import NAMED
from raysp.latency.estimates.interface import MARK, Counts, Estimate, read_counts
from raysp.latency.estimates.known import ESTIMATORS

CHEETAH = "cheetah"
"""Oblivious transfer: not estimated, but predicted from measured layers."""
PROTOCOLS = (CHEETAH, *ESTIMATORS)
TAKES = tuple(asdict(Estimate()))
"""Columns of what a model takes under a protocol."""
COMPARED = {"online_s": "seconds", "online_bytes": "bytes"}
"""What models are put in order by: the first of these that a protocol has, and its name."""
_CHEETAH_IS = (
    "cheetah: two parties, ReLUs by oblivious transfer. Not estimated: predicted from layers that were measured, with both "
    "parties on one machine, and a LAN on top."
)


def chosen_protocols(names: Sequence[str]) -> tuple[str, ...]:
    """The protocols that these names mean; none means all.

    Raises:
        ValueError: one is unknown or given twice.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"protocol {name!r:.80}; expected of: {', '.join(PROTOCOLS)}, or none for all of them")
    if len(set(names)) < len(names):
        raise ValueError(f"protocols {' '.join(names)}; expected each once")
    return tuple(names) or PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """What some models would take."""

    costs: Mapping[str, pd.DataFrame]
    """By protocol: a row for each model, with the models' index, and the columns of `TAKES`; missing where it can't be told."""
    untold: Mapping[str, int]
    """Why models can't be estimated, and how many."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order in which a protocol puts models."""

    protocol: str
    compared: str
    """By which of `COMPARED`."""
    models: int
    """That have it."""
    correlations: Mapping[str, float]
    """Spearman's rank correlation with ReLUs, MACs and depth over these models; NaN where all are equal in one of the two."""
    places: "pd.Series[int]"
    """On the front, by its index: 1 is the cheapest; equal ones share the better place."""
    worth: int
    """How many of these no other one dominates in accuracy and this cost alone."""


def estimate_points(points: pd.DataFrame, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Estimated:
    """Estimate models.

    Args:
        points: a row per model, as of `analysis.seeds.points_of`.
        records: of finished stages, those of the models among them.
        names: of `PROTOCOLS`.
    """
    by_key = {record["key"]: record for record in records}
    counted: list[Counts | None] = []
    untold: dict[str, int] = {}
    for key, name in points[["key", "exit"]].itertuples(index=False):
        try:
            counted.append(read_counts(by_key[key]["metrics"]["costs"][name]))
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else "its record has no costs by layer"
            untold[reason] = untold.get(reason, 0) + 1
            counted.append(None)
    costs = {}
    for name in names:
        if name == CHEETAH:
            known = points.reindex(columns=["pred_lan_s", "pred_bytes"]).set_axis(["online_s", "online_bytes"], axis="columns")
            costs[name] = known.reindex(columns=list(TAKES)).astype("float64")
        else:
            told = [Estimate() if counts is None else ESTIMATORS[name].estimate(counts) for counts in counted]
            rows = [asdict(estimate) for estimate in told]
            costs[name] = pd.DataFrame(rows, index=points.index, columns=list(TAKES)).astype("float64")
    return Estimated(costs=costs, untold=untold)


def order_of(
    points: pd.DataFrame, front: pd.DataFrame, protocol: str, costs: pd.DataFrame, accuracy: str = "val_accuracy"
) -> Order | None:
    """The order in which a protocol puts models; None where it can't be told of any on the front.

    Args:
        points: models that can be compared.
        front: those of them that nothing dominates.
        protocol: its name.
        costs: what each model takes under it, of `Estimated.costs`.
        accuracy: what stands against it.
    """
    compared = next((name for name in COMPARED if costs.loc[front.index, name].notna().any()), None)
    if compared is None:
        return None
    taken = costs.loc[points.index, compared].dropna()
    ranks = taken.rank()
    with np.errstate(invalid="ignore", divide="ignore"):  # where all are equal
        # Spearman's correlation is Pearson's of the ranks; pandas' own needs SciPy.
        correlations = {
            name: float(ranks.corr(points.loc[taken.index, name].astype("float64").rank())) for name in ("relus", "macs", "depth")
        }
    on_front = taken[taken.index.isin(front.index)]
    best, worth = -math.inf, 0
    for _, rows in front.loc[on_front.index].groupby(on_front, sort=True):  # from the cheapest on
        most = float(rows[accuracy].max())
        worth += int((rows[accuracy] == most).sum()) if most > best else 0
        best = max(best, most)
    return Order(
        protocol=protocol,
        compared=compared,
        models=len(taken),
        correlations=correlations,
        places=on_front.rank(method="min").astype("int64"),
        worth=worth,
    )


def said_of(order: Order, front: pd.DataFrame) -> str:
    """What a protocol does to the order of the front's models, in a sentence."""
    names = {"relus": "ReLUs", "macs": "MACs", "depth": "depth"}
    told = ", ".join(
        f"{'-' if pd.isna(value) else f'{value:.2f}'} with {names[name]}" for name, value in order.correlations.items()
    )
    first, last = _model(front, order.places, order.places.min()), _model(front, order.places, order.places.max())
    number = f"{order.models} model{'' if order.models == 1 else 's'}"
    return (
        f"{order.protocol}, by {COMPARED[order.compared]}: rank correlation over {number} {told}. Of the front's "
        f"{len(order.places)} the first is {first}, the last {last}; {order.worth} are worth having if accuracy and this cost "
        "alone count."
    )


def _model(front: pd.DataFrame, places: "pd.Series[int]", place: int) -> str:
    there = front.loc[places.index[places == place]]
    others = f" and {len(there) - 1} more" if len(there) > 1 else ""
    return f"{str(there['key'].iloc[0])[:12]} ({there['exit'].iloc[0]}){others}"


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """A front's models under several protocols: all that a table of them shows."""

    dataset: str
    """What they were trained on."""
    front: pd.DataFrame
    """The models, of one group of `GROUP`."""
    costs: Mapping[str, pd.DataFrame]
    """What each takes, by protocol: `Estimated.costs`."""
    orders: Mapping[str, Order]
    """By protocol, where there is one."""
    notes: Sequence[str]
    """Paragraphs."""


def side_by_side(points: pd.DataFrame, front: pd.DataFrame, estimated: Estimated, accuracy: str) -> list[SideBySide]:
    """The front's models under several protocols, by group of `GROUP`.

    Args:
        points: all models.
        front: those of them that nothing dominates.
        estimated: what all of them would take.
        accuracy: by which models are chosen.
    """
    found = []
    for group, rows in front.groupby(list(GROUP), sort=True):
        alike = points[(points[list(GROUP)] == list(group)).all(axis=1)]
        told = {name: order_of(alike, rows, name, costs, accuracy) for name, costs in estimated.costs.items()}
        orders = {name: order for name, order in told.items() if order}
        notes = _notes_of(estimated, rows, orders.values())
        found.append(SideBySide(dataset=str(group[0]), front=rows, costs=estimated.costs, orders=orders, notes=notes))
    return found


def _notes_of(estimated: Estimated, front: pd.DataFrame, orders: Iterable[Order]) -> list[str]:
    """What must stand beside estimates: that they are some, what each protocol does to the front's order, where the constants are
    from, and what is missing.
    """
    mark = f"{MARK}. " if any(name in ESTIMATORS for name in estimated.costs) else ""
    notes = [f"{mark}In brackets the place on the front. Sources differ in machines and links: compare models, not protocols."]
    notes += [said_of(order, front) for order in orders]
    for name in estimated.costs:
        one = ESTIMATORS.get(name)
        notes.append(_CHEETAH_IS if one is None else f"{name}: {one.what} {one.source}")
    if any(name in ESTIMATORS for name in estimated.costs):
        reasons = list(estimated.untold.items())
        notes += [f"Not estimated: {number} of the models: {reason}." for reason, number in reasons[:NAMED]]
        if more := sum(number for _, number in reasons[NAMED:]):
            notes.append(f"Not estimated: {more} more.")
    return notes
