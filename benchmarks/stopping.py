"""What early stopping saves and what it costs, replayed on a sweep that was trained without it.

    python benchmarks/stopping.py RESULTS [RESULTS ...]

Every configuration's course is in its record, so that the choices at the rungs can be made afterwards: those of
`--stopping pareto`, and as controls those of ranks by accuracy alone and of chance. Printed are the epochs that would have been
trained, of the last stage and of the whole sweep, and the share of the full sweep's hypervolume that would be left.
"""

import dataclasses
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import tyro
from tyro.conf import Positional, arg

from analysis.pareto import DEFAULT_OBJECTIVES, hypervolume, reference_point
from analysis.results import results_table
from raysp.planning import halving
from raysp.store.keys import Config
from raysp.store.records import Store
from raysp.store.stage import Stage, StageResult

Record = dict[str, Any]
Choose = Callable[[Sequence[npt.NDArray[np.float64]]], set[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replayed(Config):
    """Stands for a finished stage."""

    key: str


def replay(records: Sequence[Record], rungs: Sequence[float], choose: Choose) -> dict[str, int]:
    """Epochs that every one of these last stages would have trained, by key."""
    stages = {r["key"]: _stand_in(r) for r in records}
    race = halving.Halving(stages.values(), rungs)
    trained = {r["key"]: len(r["history"]) for r in records}
    by_stage = {stages[r["key"]].key: r for r in records}
    for key, record in by_stage.items():
        race.finished(key, record)
    with patch.object(halving, "better_half", choose):
        race.settle()
    for key, record in by_stage.items():
        epochs = race.stopped_at(key)
        if epochs is not None:
            trained[record["key"]] = epochs
    return trained


def _stand_in(record: Record) -> Stage:
    return Stage(
        name="replayed",
        version=1,
        config=Replayed(key=record["key"]),
        run=lambda *_: StageResult(),
        epochs=len(record["history"]),
    )


def by_accuracy(configurations: Sequence[npt.NDArray[np.float64]]) -> set[int]:
    """The half with the most accurate models: what plain successive halving keeps."""
    order = sorted(range(len(configurations)), key=lambda number: (configurations[number][:, 0].min(), number))
    return set(order[: -(-len(order) // 2)])


def by_chance(seed: int) -> Choose:
    """Any half."""
    generator = random.Random(seed)  # noqa: S311 (not for secrets)
    return lambda configurations: set(generator.sample(range(len(configurations)), -(-len(configurations) // 2)))


def main(
    results: Annotated[Positional[tuple[Path, ...]], arg(help="results directories of full sweeps")],
    rungs: Annotated[tuple[float, ...], arg(help="shares of the last stage's epochs")] = halving.RUNGS,
    draws: Annotated[int, arg(help="of chance")] = 20,
) -> None:
    """Print a line per sweep and seed."""
    for root in results:
        records, _ = Store(root=root.absolute()).records()
        for seed in sorted({r["config"]["experiment"]["seed"] for r in records}):
            mine = [r for r in records if r["config"]["experiment"]["seed"] == seed]
            last = [r for r in mine if r["stage"] == "finetune"]
            shared = sum(len(r["history"]) for r in mine if r["stage"] != "finetune")
            full = sum(len(r["history"]) for r in last)
            table = results_table(mine)
            reference = reference_point(table, DEFAULT_OBJECTIVES)
            whole = hypervolume(table, DEFAULT_OBJECTIVES, reference)
            print(f"{root.name}, seed {seed}: {len(last)} configurations, {full} epochs of their own and {shared} shared")
            ways: dict[str, list[Choose]] = {
                "pareto": [halving.better_half],
                "accuracy": [by_accuracy],
                "chance": [by_chance(number) for number in range(draws)],
            }
            for name, choices in ways.items():
                shares, epochs = [], 0
                for choose in choices:
                    trained = replay(last, rungs, choose)
                    gone = {r["key"] for r in last if trained[r["key"]] < len(r["history"])}
                    left = table[~table["key"].isin(gone)]
                    shares.append(hypervolume(left, DEFAULT_OBJECTIVES, reference) / whole)
                    epochs = sum(trained.values())
                spread = f" ({min(shares):.4f} to {max(shares):.4f})" if len(shares) > 1 else ""
                print(
                    f"  {name:9} {full / epochs:.2f}x fewer epochs, {(full + shared) / (epochs + shared):.2f}x with the shared "
                    f"ones; {statistics.mean(shares):.4f}{spread} of the hypervolume"
                )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
