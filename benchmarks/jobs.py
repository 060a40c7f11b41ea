"""What a sweep costs beside its training: planning, handing jobs out, and reading what many jobs have left.

    python benchmarks/jobs.py

Stages here compute nothing. Times of two sweeps are compared in one run, in turns: the ratio says whether a job among a thousand
costs more than one among a hundred.
"""

import itertools
import os
import resource
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import arg

from raysp.data.sources import open_source
from raysp.engine.context import Context, Place
from raysp.engine.inline import run_inline
from raysp.engine.options import RunOptions
from raysp.engine.progress import Progress
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.ray.connection import connect, find
from raysp.engine.ray.tune import run_on_ray
from raysp.engine.sweep import run_sweep
from raysp.methods.choices import Choice
from raysp.planning.plan import JobQueue, Plan
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.keys import Config
from raysp.store.records import Store
from raysp.store.stage import Stage, StageResult

SHARED_BY = 10
"""Jobs below one parent."""


@dataclass(frozen=True, kw_only=True)
class IdleConfig(Config):
    """Tells one idle stage from another."""

    number: int


def idle(config: IdleConfig, context: Context) -> StageResult:
    """Compute nothing."""
    context.report({"epoch": 1, "epochs": 1, "time_s": 0.0})
    return StageResult()


def idle_stages(jobs: int) -> list[Stage]:
    """So many jobs, parents counted: one for every `SHARED_BY`."""

    def stage(number: int, **parents: Stage) -> Stage:
        return Stage(name="idle", version=1, config=IdleConfig(number=number), run=idle, epochs=1, parents=parents)

    leaves = []
    for first in range(0, jobs, SHARED_BY):
        parent = stage(first)
        leaves += [stage(number, parent=parent) for number in range(first + 1, min(first + SHARED_BY, jobs))]
    return leaves


def plan_seconds(configurations: int) -> tuple[float, float, int]:
    """Seconds to plan a grid of the preset `quick`, to hand all its jobs out and take them back, and their number."""
    preset = PRESETS["quick"]
    source = open_source("digits", 8, Path())
    started = time.perf_counter()
    builder = ChainBuilder(preset, source.config)
    grid = itertools.product(range(-(-configurations // 2000)), range(1, 51), range(1, 11), ("linear", "cosine"), ((2,), (3,)))
    choices = (
        Choice(seed=seed, budget=b / 100, d_th=d / 100, gamma=gamma, ac_after=ac)  # type: ignore[arg-type]
        for seed, b, d, gamma, ac in itertools.islice(grid, configurations)
    )
    plan = Plan(map(builder.chain, choices))
    planned = time.perf_counter()
    queue = JobQueue(list(plan.stages.values()))
    while stage := queue.next():
        queue.done(stage, {"history": [], "rows": []})
    return planned - started, time.perf_counter() - planned, len(plan.stages)


def job_seconds(jobs: int, inline: bool) -> float:
    """Seconds per job of a sweep of stages that compute nothing, inline or on the connected Ray, once workers have started."""
    stages = list(Plan(idle_stages(jobs)).stages.values())
    with tempfile.TemporaryDirectory() as scratch, Store(root=Path(scratch) / "run").lock() as store:
        at_once = Slots(Request(num_threads=1, gpus=0.0), 2)
        queue, place = JobQueue(stages), Place(store=store, splits={})
        progress = Progress(stages, (lambda: 1) if inline else at_once.now, Console(quiet=True))
        outcome = run_inline(queue, place, progress) if inline else run_on_ray(queue, place, progress, slots=at_once, retries=0)
        assert outcome.ok
        ended = sorted(datetime.fromisoformat(record["finished"]).timestamp() for record in store.records()[0])
        return (ended[-1] - ended[SHARED_BY - 1]) / (jobs - SHARED_BY)


def peak_mb() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_seconds(records: int) -> float:
    """Seconds to read the records of so many finished stages."""
    with tempfile.TemporaryDirectory() as scratch, Path(os.devnull).open("w") as nowhere:
        root = Path(scratch) / "run"
        run_sweep(idle_stages(records), root, [], RunOptions(inline=True), labels={}, console=Console(file=nowhere))
        started = time.perf_counter()
        found, _ = Store(root=root).records()
        assert len(found) == records
        return time.perf_counter() - started


def main(
    few: int = 100,
    many: int = 1000,
    rounds: Annotated[int, arg(help="turns of few and many jobs")] = 3,
    configurations: Annotated[int, arg(help="to plan, and records to read")] = 10_000,
    inline: Annotated[bool, arg(help="without Ray")] = False,
) -> None:
    """Print seconds and ratios."""
    seconds, handing, stages = plan_seconds(configurations)
    print(f"planning {configurations:,} configurations ({stages:,} stages): {seconds:.2f} s; handing all out: {handing:.2f} s")
    each: dict[int, list[float]] = {few: [], many: []}
    with nullcontext() if inline else connect(find("local"), verbose=False):
        for _ in range(rounds):
            for jobs, times in each.items():
                times.append(job_seconds(jobs, inline))
    print(f"the driver's memory at most: {peak_mb():.0f} MB")
    for jobs, times in each.items():
        print(f"{jobs} jobs: {1e3 * statistics.median(times):.1f} ms each ({', '.join(f'{1e3 * t:.1f}' for t in times)})")
    ratios = [a / b for a, b in zip(each[many], each[few], strict=True)]
    print(f"a job among {many} / among {few}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"reading {configurations:,} records: {read_seconds(configurations):.2f} s")
    print(f"with those stages and records in one process, at most {peak_mb():.0f} MB")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
