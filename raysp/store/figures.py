"""What a finished or paused model is judged by: accuracy and costs, one row per exit.

Owns the names of the costs and the form of these rows, which records and rungs keep. Refuses to compare them
(`raysp.planning.halving`, `analysis`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

COSTS = ("relus", "macs", "depth")
"""What is to be small, in the report too, unless a user asks for something else."""

PREDICTED = "predicted"
"""Of a row, what private inference is predicted to take, where that is weighed: `time_s`, `bytes`, `round_trips`, and the digest
of the `calibration` that says so."""

Rows = Sequence[Mapping[str, Any]]
"""One per exit of a stage after some epoch: `exit`, `val_accuracy` in percent, `relus`, `macs`, `depth`, perhaps `PREDICTED`."""


def check_rows(rows: Any) -> None:
    """Raise ValueError, KeyError or TypeError unless these are `Rows`, at least one."""
    if not rows or not isinstance(rows, list):
        raise ValueError(f"rows {rows!r:.60}")
    for row in rows:
        if not isinstance(row["exit"], str) or not all(math.isfinite(row[name]) for name in ("val_accuracy", *COSTS)):
            raise ValueError(f"a row {row!r:.120}")
        told = row.get(PREDICTED)
        if told is not None and not all(math.isfinite(told[name]) for name in ("time_s", "bytes", "round_trips")):
            raise ValueError(f"a row's prediction {told!r:.120}")


def rows_after(epoch: int, history: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a stage's exits were worth after an epoch.

    Args:
        epoch: from 1.
        history: figures per epoch; their `val_by_exit` is asked for.
        costs: by exit, of the network as it would be deployed; what is predicted among them, where it is weighed.
    """
    accuracies = history[epoch - 1]["val_by_exit"]
    return [
        {
            "exit": name,
            "val_accuracy": accuracy,
            **{cost: costs[name][cost] for cost in (*COSTS, PREDICTED) if cost in costs[name]},
        }
        for name, accuracy in sorted(accuracies.items())
    ]
