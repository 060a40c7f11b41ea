"""From a list of stages to finished records: the order of things in a run.

Owns the sequence plan, look-up, decoding, lock, training; and what is printed about the plan. Refuses to build stages
(`sweeps/`) or to read results (`analysis/`). Contract: everything that a user can get wrong is found before the results root is
touched.
"""

import math
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysp.compiling import Compile, check_compile, check_compiler
from raysp.context import Place
from raysp.data import Source, load_splits
from raysp.inline import run_inline
from raysp.intent import intent_of, write_intent
from raysp.keys import key_of
from raysp.location import Location, exists
from raysp.plan import Outcome, Plan, Survey, inspect, survey
from raysp.progress import FrontSoFar, Progress
from raysp.stage import Stage
from raysp.store import CHECKPOINT, READERS, RECORD, Store, read_record

MAX_THREADS = 1024
MAX_WORKERS = 1024


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how a sweep runs; nothing here changes a result's identity.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    inline: bool = False
    """Run in this process, without Ray."""
    address: str | None = None
    """Of a Ray cluster, or "local"; None takes the one that `ray start` started on this machine, else starts a local one."""
    max_concurrent: int | None = None
    """Stages at once, at least 1; None takes what the cluster's resources allow."""
    workers_per_stage: int = 1
    """Training processes per stage, at least 1; several share each batch, under Ray Train."""
    sync_batchnorm: bool = True
    """With several workers on GPUs: take batch norm's statistics over the whole batch, not over each worker's part of it."""
    retries: int = 1
    """How often a stage is tried again after its worker or machine died, at least 0; what its own code raises isn't."""
    gpus_per_stage: float | None = None
    """GPUs, or the share of one, that each worker of a stage holds; 0 trains on the CPU, None takes 1 where the cluster has
    GPUs."""
    threads_per_stage: int = 1
    """CPU threads per stage, at least 1. Float sums depend on it, so it is fixed whatever else runs."""
    compile: Compile = "off"
    """How networks are compiled while they train, with one worker per stage; float sums depend on it, as on the threads."""
    verbose: bool = False
    """Let Ray's own messages through."""

    def __post_init__(self) -> None:
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ValueError(f"max_concurrent is {self.max_concurrent}; expected at least 1")
        if not 1 <= self.workers_per_stage <= MAX_WORKERS:
            raise ValueError(f"workers_per_stage is {self.workers_per_stage}; expected 1 to {MAX_WORKERS}")
        if self.inline and self.workers_per_stage > 1:
            raise ValueError(
                f"inline, and {self.workers_per_stage} workers_per_stage; expected one of them: inline is one process"
            )
        if self.compile != "off" and self.workers_per_stage > 1:
            raise ValueError(
                f"compile is {self.compile}, and {self.workers_per_stage} workers_per_stage; expected one of them: their results "
                "together were not tested"
            )
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; expected at least 0")
        most = (os.cpu_count() or 1) if self.inline else MAX_THREADS
        if not 1 <= self.threads_per_stage <= most:
            raise ValueError(f"threads_per_stage is {self.threads_per_stage}; expected 1 to {most}")
        if self.inline and self.address is not None:
            raise ValueError(f"inline, and address {self.address!r}; expected one of them: inline runs without Ray")
        gpus = self.gpus_per_stage
        if gpus is not None and not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or float(gpus).is_integer())):
            raise ValueError(f"gpus_per_stage is {gpus:g}; expected a share from 0 to 1, or a whole number")
        if gpus is not None and self.workers_per_stage > 1 and not float(gpus).is_integer():
            raise ValueError(
                f"gpus_per_stage is {gpus:g} with {self.workers_per_stage} workers_per_stage; expected a whole number for each "
                "worker, or 0: NCCL takes one worker per GPU"
            )


def run_sweep(
    leaves: Sequence[Stage],
    root: Location,
    sources: Sequence[Source],
    options: RunOptions,
    *,
    labels: dict[str, Any],
    console: Console,
    command: str = "",
    front: FrontSoFar | None = None,
) -> Outcome:
    """Train what is missing of a sweep.

    Args:
        leaves: one stage per configuration.
        root: the results root; made if it doesn't exist. A path is taken as it is: make it absolute (`raysp.location.locate`).
        sources: the data sets that the stages read.
        options: where to run.
        labels: kept in every record besides its identity.
        console: for the plan and the progress.
        command: what was asked for, as the user said it.
        front: draws the front of what is finished so far, for a terminal.

    Returns:
        What became of every stage that was missing.

    Raises:
        ValueError: there are no leaves, the data can't be used (`DataError`), no node can run a stage (`PlacementError`), or one
            doesn't see the root.
        StoreBusy: another process drives a sweep in this root.
        OSError: the root can't be written.
    """
    if not leaves:
        raise ValueError("the sweep has no configuration; expected at least one value on every axis")
    plan = Plan(leaves)
    reader = Store(root=root)
    reader.check_free()
    found = survey(plan, reader)
    print_plan(plan, found, console)
    for stage in found.found:
        console.print(f"[green]found[/]    {stage.label}  [dim]{stage.note}[/]", highlight=False, soft_wrap=True)
    if not found.missing:
        return Outcome()
    splits = {}
    for source in sources:
        loaded = load_splits(source)
        splits[key_of(source.config)] = loaded
        counts = ", ".join(f"{len(getattr(loaded, part))} {part}" for part in ("train", "val", "test"))
        console.print(f"{source.config.name}: {counts} images in {source.config.num_classes} classes", highlight=False)
    with _runner(options) as runner, reader.lock(tell=partial(console.print, soft_wrap=True)) as store:
        write_intent(store, intent_of(plan, labels.get("preset", ""), command))
        _tidy(found, store, console)
        place = Place(
            store=store,
            num_threads=options.threads_per_stage,
            gpus=runner.gpus,
            sync_batchnorm=options.sync_batchnorm,
            compile=options.compile,
            labels={**labels, "git": git_state()},
            splits=splits,
        )
        shown = Progress(
            found.missing,
            runner.slots,
            console,
            found=found.found,
            rows=_rows(found.found, store) if front and console.is_terminal else (),
            front=front,
            gpus=runner.gpus,
            workers=options.workers_per_stage,
        )
        with shown.show() as progress:
            return runner.run(found.missing, place, progress)


def _rows(stages: Sequence[Stage], store: Store) -> list[dict[str, Any]]:
    """The finished stages' models."""
    with ThreadPoolExecutor(READERS) as pool:
        records = pool.map(lambda stage: read_record(store.directory(stage) / RECORD), stages)
        return [row for record in records if record for row in record["rows"]]


def _tidy(found: Survey, store: Store, console: Console) -> None:
    """Set damaged files aside, say what resumes, and drop what a kill left beside a record."""
    for stage in found.damaged:
        for damage in inspect(stage, store)[1]:  # looked at again: another driver may have mended it before we held the lock
            line = f"[yellow]damaged[/]  {escape(str(damage))}"
            if exists(damage.path):
                line += f"; set aside as {escape(store.set_aside(damage.path).name)}"
            console.print(line, highlight=False, soft_wrap=True)
    with ThreadPoolExecutor(READERS) as pool:
        begun = pool.map(lambda stage: (store.directory(stage) / CHECKPOINT).exists(), found.missing)
        for stage, is_begun in zip(found.missing, begun, strict=True):
            if is_begun:
                console.print(f"resumes  {stage.label}  [dim]{stage.note}[/]", highlight=False, soft_wrap=True)
        list(pool.map(store.drop_leftovers, found.found))


@dataclass(frozen=True, kw_only=True)
class _Runner:
    gpus: float
    slots: Callable[[], int]
    run: Callable[[Sequence[Stage], Place, Progress], Outcome]


@contextmanager
def _runner(options: RunOptions) -> Iterator[_Runner]:
    """This process, or a connected Ray, ready to run stages."""
    gpus = options.gpus_per_stage
    if options.inline:
        if gpus and not torch.cuda.is_available():
            raise ValueError(f"gpus_per_stage is {gpus:g}, but torch finds no GPU here; expected 0, or leave it out")
        gpus = (1.0 if gpus is None else gpus) * torch.cuda.is_available()
        check_compile(options.compile, gpus)
        check_compiler(options.compile, torch.device("cuda" if gpus else "cpu"))
        yield _Runner(gpus=gpus, slots=lambda: 1, run=run_inline)
        return
    from raysp import cluster, ray_tune  # Ray takes seconds to import, and may be absent where stages run inline

    with cluster.connect(options.address, verbose=options.verbose):
        gpus = cluster.gpus_for(gpus)
        check_compile(options.compile, gpus)
        request = cluster.Request(num_threads=options.threads_per_stage, gpus=gpus, workers=options.workers_per_stage)
        request.check()
        slots = cluster.Slots(request, options.max_concurrent)
        yield _Runner(gpus=gpus, slots=slots.now, run=partial(ray_tune.run_on_ray, slots=slots, retries=options.retries))


def print_plan(plan: Plan, found: Survey, console: Console) -> None:
    """Show the jobs per stage, what is found, and the epochs against those of separate pipelines."""
    table = Table("stage", box=None, pad_edge=False)
    for column in ("jobs", "found", "to train", "epochs", "in separate pipelines"):
        table.add_column(column, justify="right")
    missing = {stage.key for stage in found.missing}
    epochs_left = sum(stage.epochs for stage in found.missing)
    for line in plan.counts(stage.key for stage in found.found):
        epochs = sum(s.epochs for s in plan.stages.values() if s.name == line.name and s.key in missing)
        cells = (line.jobs, line.found, line.jobs - line.found, epochs, line.separate_jobs)
        table.add_row(line.name, *map(str, cells))
    console.print(table)
    shared = len(plan.stages) - len(plan.leaves)
    plural = "" if len(plan.leaves) == 1 else "s"
    console.print(
        f"{len(plan.leaves)} configuration{plural} from {len(plan.stages)} stages, {shared} of them shared ancestors; "
        f"{epochs_left} epochs to train. Separate pipelines would train {plan.separate_epochs}, "
        f"{plan.separate_epochs / max(plan.epochs, 1):.1f}x the {plan.epochs} of this plan.",
        highlight=False,
        soft_wrap=True,
    )


def git_state() -> dict[str, Any]:
    """Commit of the checkout that this code comes from, and whether it has uncommitted changes; empty outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}
