"""Who lost what: each class's test accuracy against that of the all-ReLU network.

Owns the comparison, and the choice of models that a figure has room for. Refuses to draw (`analysis.figures`). Contract: a model
is compared with the baseline of its own seed and chain; classes without test images, and models of which either side doesn't tell
classes apart, take no part.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.pareto import GROUP, Found, knee
from raysp.models.exits import FINAL
from raysp.store.classes import BY_CLASS, NAMES, percent_of

MOST = 6
"""Models of one data set and selection part that are shown."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a model's classes lost or gained."""

    point: Mapping[str, Any]
    """The model's row of the points."""
    role: str
    """Why it is shown before others: "best that qualifies", "knee", or nothing."""
    names: list[str]
    """Classes, those that lost most first."""
    points: list[float]
    """What each gained, in points of accuracy: the mean over the seeds."""
    mean: float
    """The same over all test images."""
    image_points: float
    """What one test image is worth to the accuracy of a class of median size, in points."""


def changes_of(
    points: pd.DataFrame,
    front: pd.DataFrame,
    found: Mapping[Any, Found],
    records: Sequence[Mapping[str, Any]],
    objectives: Sequence[str],
) -> list[Change]:
    """The comparisons that a figure shows: per group of `GROUP` at most `MOST` of the front's, by falling ReLUs.

    The best model that meets the limits is among them; where there are no limits the knee. The others are spread evenly over the
    front's ReLUs.

    Args:
        points: as of `analysis.seeds.points_of`.
        front: those of them that nothing dominates.
        found: what meets a question's limits, by group.
        records: of finished stages.
        objectives: what the front is of.
    """
    by_key = {record["key"]: record for record in records}
    shown: list[Change] = []
    for group, rows in front.groupby(list(GROUP), sort=True):
        if group in found:
            qualify = found[group].rows
            role, first = "best that qualifies", list(qualify.index[qualify["mask_method"] != "none"][:1])
        else:
            best = knee(rows, objectives)
            role, first = "knee", [] if best is None else [best.name]
        candidates = points.loc[list(dict.fromkeys([*first, *rows.index]))]
        changes = {
            index: change
            for index, row in zip(candidates.index, candidates.to_dict("records"), strict=True)
            if row["mask_method"] != "none" and (change := _change(row, role if index in first else "", by_key))
        }
        falling = sorted(changes, key=lambda index: -float(changes[index].point["relus"]))
        shown += [changes[index] for index in _spread(falling, [index for index in first if index in changes])]
    return shown


def _change(point: Mapping[Any, Any], role: str, by_key: Mapping[str, Mapping[str, Any]]) -> Change | None:
    gained: dict[int, list[float]] = {}
    baseline: Mapping[str, Any] = {}
    for key in point["key_list"]:
        record = by_key[key]
        teacher = by_key.get(record.get("parents", {}).get("baseline", {}).get("key", ""), {}).get("metrics", {})
        mine, theirs = percent_of(record["metrics"], point["exit"]), percent_of(teacher, FINAL)
        if mine and len(mine) == len(theirs):
            baseline = teacher
            for label, (has, had) in enumerate(zip(mine, theirs, strict=True)):
                if has is not None and had is not None:
                    gained.setdefault(label, []).append(has - had)
    if not gained:
        return None
    over_seeds = {label: statistics.fmean(values) for label, values in gained.items()}
    order = sorted(over_seeds, key=lambda label: (over_seeds[label], label))
    names, images = baseline.get(NAMES, {}), baseline[BY_CLASS]["images"]
    return Change(
        point=point,
        role=role,
        names=[names[label] if len(names) == len(images) else str(label) for label in order],
        points=[over_seeds[label] for label in order],
        mean=statistics.fmean((over_seeds[label] for label in order), [images[label] for label in order]),
        image_points=100.0 / statistics.median(images[label] for label in order),
    )


def _spread(falling: list[Any], kept: list[Any]) -> list[Any]:
    """At most `MOST` of them in their order: those that must be there, and others at even steps."""
    others = [index for index in falling if index not in kept]
    room = min(MOST - len(kept), len(others))
    chosen = {others[round(n * (len(others) - 1) / max(room - 1, 1))] for n in range(room)}
    return [index for index in falling if index in chosen or index in kept]
