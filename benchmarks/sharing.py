"""What a sweep saves by training every shared stage once: wall-clock against every configuration's whole chain on its own.

    python benchmarks/sharing.py

The grid is the paper's in small: four budgets, three thresholds, linear and cosine gates, and auxiliary classifiers after the
second and the third stage, which one network has both in the sweep, and one each on its own. Both ways run on Ray with as many
stages at once; the separate chains are all in one Ray, so that their processes' starts aren't counted against them.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import ray
import tyro
from rich.console import Console
from tyro.conf import arg

from raysp.data.sources import load_splits, open_source
from raysp.engine.context import Place
from raysp.engine.progress import Progress
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.ray.connection import connect, find
from raysp.engine.ray.tune import run_on_ray
from raysp.methods.choices import Choice
from raysp.planning.plan import JobQueue, Plan
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.keys import key_of
from raysp.store.records import Store
from raysp.store.stage import Stage

PLACEMENTS = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a sweep ran."""

    wall_s: float
    records: list[dict[str, Any]]


def grid(scale: float, budgets: Sequence[float], joint: bool) -> list[Stage]:
    """The configurations, with one network for both auxiliary classifiers, or one each."""
    build = ChainBuilder(PRESETS["quick"], open_source("digits", None, Path()).config, epochs_scale=scale)
    choices = [
        Choice(budget=budget, d_th=d_th, gamma=gamma, ac_after=ac)
        for budget in budgets
        for d_th in (None, 0.05, 0.2)
        for gamma in ("linear", "cosine")
        for ac in ([PLACEMENTS] if joint else [(after,) for after in PLACEMENTS])
    ]
    return list({leaf.key: leaf for leaf in map(build.chain, choices)}.values())


def run(leaves: Sequence[Stage], root: Path, splits: dict[str, Any], slots: int) -> Ran:
    """Train what is missing of some configurations on the connected Ray."""
    stages = list(Plan(leaves).stages.values())
    at_once = Slots(Request(num_threads=1, gpus=0.0), slots)
    started = time.perf_counter()
    with Store(root=root).lock() as store:
        outcome = run_on_ray(
            JobQueue(stages),
            Place(store=store, splits=splits),
            Progress(stages, at_once.now, Console(quiet=True)),
            slots=at_once,
            retries=0,
        )
    assert outcome.ok
    return Ran(wall_s=time.perf_counter() - started, records=Store(root=root).records()[0])


def apart(leaf: Stage, number: int) -> Stage:
    """The configuration with a chain of its own: stages that no other shares."""
    known: dict[str, Stage] = {}

    def own(stage: Stage) -> Stage:
        if stage.key not in known:
            parents = {role: own(parent) for role, parent in stage.parents.items()}
            known[stage.key] = replace(stage, version=1000 + number, parents=parents)
        return known[stage.key]

    return own(leaf)


def seconds_of(record: dict[str, Any]) -> tuple[float, float]:
    """When a stage's job began and ended."""
    began, ended = (datetime.fromisoformat(record[name]).timestamp() for name in ("started", "finished"))
    return began, ended


def main(
    scale: Annotated[float, arg(help="of all epochs")] = 1.0,
    budgets: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4),
    slots: Annotated[int, arg(help="stages at once")] = 2,
    rounds: Annotated[int, arg(help="turns of both ways")] = 1,
    separate: Annotated[bool, arg(help="measure the separate chains too")] = True,
) -> None:
    """Print the ratio, and how busy the slots were."""
    source = open_source("digits", None, Path())
    splits = {key_of(source.config): load_splits(source)}
    shared, alone = grid(scale, budgets, joint=True), grid(scale, budgets, joint=False)
    chains = [apart(leaf, number) for number, leaf in enumerate(alone)]
    plan, pipelines = Plan(shared), Plan(chains)
    print(f"{len(shared)} configurations, {len(plan.stages)} stages, {plan.epochs} epochs; separate: {len(chains)} chains")
    print(f"epochs, separate / shared: {pipelines.epochs / plan.epochs:.2f}")
    ratios = []
    with connect(find("local"), verbose=False), tempfile.TemporaryDirectory() as scratch:
        assert ray.is_initialized()
        for number in range(rounds):
            swept = run(shared, Path(scratch) / f"shared-{number}", splits, slots)
            last = [record for record in swept.records if record["stage"] == "finetune"]
            spans = [seconds_of(record) for record in last]
            span = max(end for _, end in spans) - min(begin for begin, _ in spans)
            busy = sum(end - begin for begin, end in spans)
            epochs = sum(record["time_s"] for record in last)
            print(f"the sweep: {swept.wall_s:.1f} s; from the first to the last of {len(last)} fine-tunings {span:.1f} s")
            print(f"  slots busy with jobs {busy / span / slots:.3f}, with epochs {epochs / span / slots:.3f}")
            beyond, of_them = (span * slots - epochs) / len(last), (busy - epochs) / len(last)
            print(f"  a job beyond its epochs: {beyond:.2f} s, of them {of_them:.2f} in the stage (network, test, record)")
            if separate:
                whole = run(chains, Path(scratch) / f"separate-{number}", splits, slots)
                ratios.append(whole.wall_s / swept.wall_s)
                print(f"separate chains: {whole.wall_s:.1f} s, {ratios[-1]:.2f}x as long")
    if len(ratios) > 1:
        print(f"ratio: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
