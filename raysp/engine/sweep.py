"""From a list of stages to finished records: the order of things in a run.

Owns the sequence plan, look-up, decoding, lock, training. Refuses to build stages (`sweeps/`) or to read results (`analysis/`).
Contract: everything that a user can get wrong is found before the results root is touched.
"""

import subprocess
import sys
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

from raysp.data.sources import Source, load_splits
from raysp.engine.compiling import check_compiler
from raysp.engine.context import Place
from raysp.engine.copies import copy_rungs, equals_in
from raysp.engine.forecast import print_plan
from raysp.engine.inline import run_inline
from raysp.engine.memory import check_memory
from raysp.engine.names import ShortNames
from raysp.engine.options import RunOptions, check_cuda_graph
from raysp.engine.packing.crowd import Trial
from raysp.engine.packing.rule import at_once
from raysp.engine.progress import FrontSoFar, Progress
from raysp.engine.shadows import refuse_shadows, workers_directories
from raysp.engine.tracking.feed import feeding
from raysp.engine.troubles import NO_DOCSTRINGS
from raysp.latency.recorded import Outline
from raysp.models.files import load_outline
from raysp.planning.halving import Halving
from raysp.planning.plan import JobQueue, Outcome, Plan, Survey, inspect, survey
from raysp.planning.proposals import STOPPED_SEARCH, Algorithm, Search, SearchQueue, Values, read_proposals, set_aside
from raysp.planning.weighing import Weighing
from raysp.store.keys import key_of
from raysp.store.location import Location, Unreachable
from raysp.store.lock import StoreBusy
from raysp.store.manifest import manifest_of, write_manifest
from raysp.store.record_files import read_record
from raysp.store.records import CHECKPOINT, READERS, RECORD, SAME_AS, Store, label_of
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile
from raysp.store.tryout import try_out


class BrokenOff(Exception):
    """A run has ended by an error outside its stages, such as a full disk under its search's proposals."""


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
    search: Search | None = None,
    weighing: Weighing | None = None,
) -> Outcome:
    """Train what is missing of a sweep.

    Args:
        leaves: one stage per configuration; of a search those that were proposed in earlier runs
            (`raysp.planning.proposals.proposed`).
        root: the results root; made if it doesn't exist. A path is taken as it is: make it absolute
            (`raysp.store.location.locate`).
        sources: the data sets that the stages read.
        options: where to run.
        labels: kept in every record besides its identity.
        console: for the plan and the progress.
        command: what was asked for, as the user said it.
        front: draws the front of what is finished so far, for a terminal.
        search: proposes more leaves while the sweep runs.
        weighing: what early stopping weighs models by, and what predicts seconds; None takes ReLUs, MACs and depth.

    Returns:
        What became of every stage that was missing.

    Raises:
        ValueError: there are no leaves, the data can't be used (`DataError`), the root lacks what a run needs (`StorageLacks`),
            no node can run a stage (`PlacementError`), one doesn't see the root, or workers would import a file of the current
            directory in place of a package.
        StoreBusy: another process drives a sweep in this root, or has gone on with this search meanwhile.
        OSError: the root can't be written.
        BrokenOff: it couldn't be any more once stages were running; what is finished is kept.
    """
    if not options.inline:
        if sys.flags.optimize > 1:
            raise ValueError(f"{NO_DOCSTRINGS.because}; {NO_DOCSTRINGS.remedy}")
        _refuse_no_text(root)
        refuse_shadows(workers_directories())
    if not leaves and search is None:
        raise ValueError("the sweep has no configuration; expected at least one value on every axis")
    if search is not None and options.stopping != "none":
        raise ValueError(STOPPED_SEARCH)
    weighing = weighing or Weighing()
    earlier = read_proposals(root, search) if search else []
    plan = Plan(leaves)
    reader = Store(root=root)
    reader.check_free()
    found = survey(plan, reader)
    if search is not None:
        console.print(f"search by {search.algorithm}: {len(earlier)} of {search.trials} configurations proposed", highlight=False)
    if leaves:
        print_plan(plan, found, console, options.stopping)
    names = ShortNames(plan.stages.values())
    for stage in found.found:
        console.print(f"[green]found[/]    {_told(stage, names)}", highlight=False, soft_wrap=True)
    halving = start_halving(plan, found, reader, weighing) if options.stopping == "pareto" else None
    queue = JobQueue(found.missing, halving, equals_in(reader))
    given_up = queue.settle()
    for stage in given_up:
        console.print(f"[yellow]stopped[/]  {_told(stage, names)}", highlight=False, soft_wrap=True)
    algorithm = make_algorithm(search, earlier) if search else None
    if queue.exhausted and (search is None or len(earlier) >= search.trials):
        return queue.outcome
    for note in try_out(root).notes:
        console.print(f"[yellow]note[/] storage {escape(str(root))}: {escape(note)}", highlight=False, soft_wrap=True)
    check_memory(sources)
    splits = {}
    for source in sources:
        loaded = load_splits(source)
        splits[key_of(source.config)] = loaded
        counts = ", ".join(f"{len(getattr(loaded, part))} {part}" for part in ("train", "val", "test"))
        beside = f"; {escape(source.passed_over)}" if source.passed_over else ""
        told = f"{source.config.name}: {counts} images in {source.config.num_classes} classes{beside}"
        console.print(told, highlight=False, soft_wrap=True)
    waiting = [stage for stage in found.missing if queue.waits_for(stage)]
    trial = Trial(
        stages=waiting,
        at_once=search.trials if search else at_once(waiting),
        sizes={key: {part: len(getattr(loaded, part)) for part in ("train", "val", "test")} for key, loaded in splits.items()},
        num_threads=options.threads_per_stage,
        cuda_graph=options.cuda_graph,
    )
    say = partial(console.print, soft_wrap=True)
    with (
        _runner(options, trial, console) as runner,
        reader.lock(tell=say) as store,
        feeding(options.trackers, root, {"preset": str(labels.get("preset", ""))}, say) as feed,
    ):
        if search and read_proposals(root, search) != earlier:
            raise StoreBusy(f"another run in {root} has gone on with this search meanwhile; run the same command again")
        if leaves:
            write_manifest(store, manifest_of(list(plan.leaves.values()), labels.get("preset", ""), command))
        _tidy(found, queue, store, console, names)
        copy_rungs(queue, store, given_up)
        place = Place(
            store=store,
            num_threads=options.threads_per_stage,
            gpus=runner.gpus,
            sync_batchnorm=options.sync_batchnorm,
            compile=options.compile,
            cuda_graph=options.cuda_graph,
            labels={**labels, "git": git_state()},
            weighing=weighing,
            splits=splits,
        )
        shown = Progress(
            [] if search else waiting,
            runner.slots,
            console,
            found=[] if search else found.found,
            rows=_rows(found.found, store) if front and console.is_terminal else (),
            front=front,
            gpus=runner.gpus,
            workers=options.workers_per_stage,
            bound="at least" if search else "about" if halving is None else "at most",
            feed=feed,
        )
        if search and algorithm:
            queue = SearchQueue(
                search,
                algorithm,
                earlier,
                store,
                equals_in(store),
                outline=outline_in(store),
                at_once=runner.at_once,
                progress=shown,
            )
        with shown.show() as progress:
            try:
                outcome = runner.run(queue, place, progress)
            except Unreachable:
                raise
            except OSError as error:
                raise BrokenOff(f"{type(error).__name__}: {error}") from error
        outcome.left = queue.left
        return outcome


def make_algorithm(search: Search, earlier: Sequence[Values]) -> Algorithm:
    """What makes a search's proposals. Raises ValueError where there is none of its name, or it isn't installed."""
    from raysp.planning.tune_searchers import TuneAlgorithm  # takes seconds to import

    return TuneAlgorithm(search, earlier)


def outline_in(store: Store) -> Outline:
    """The networks of a store's finished stages, where they aren't built in."""
    return lambda record: load_outline(store.root / "stages" / label_of(record))


def start_halving(plan: Plan, found: Survey, store: Store, weighing: Weighing) -> Halving:
    """The race of a plan's configurations, with all that is known of it from earlier runs.

    Raises:
        ValueError: what they are weighed by can't be predicted of one that is done.
    """
    racing_stages = (stage for stage in plan.leaves.values() if stage.stoppable)
    halving = Halving(racing_stages, weighing=weighing, outline=outline_in(store))
    racing = [stage for stage in plan.stages.values() if halving.until(stage.key) is not None]
    done = {stage.key for stage in found.found}

    def known_of(stage: Stage) -> Any:
        try:
            return store.read(stage) if stage.key in done else store.read_rungs(stage)
        except DamagedFile:  # it is named, and set aside, when the lock is held
            return {}

    with ThreadPoolExecutor(READERS) as pool:
        known = pool.map(known_of, racing)
        for stage, content in zip(racing, known, strict=True):
            if stage.key in done and content:
                halving.finished(stage.key, content)
                if (first := content["metrics"].get(SAME_AS)) in done:
                    halving.follows(stage.key, first)
            elif content:
                for epoch, rung in content.items():
                    if weighing.knows(rung["rows"]):  # else it is told anew, from the stage's checkpoint
                        halving.arrived(stage.key, epoch, rung["rows"])
    return halving


def _refuse_no_text(root: Location) -> None:
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise ValueError(f"storage {root}: its name is no text in UTF-8, which Ray needs; rename it, or give --inline") from None


def _told(stage: Stage, names: ShortNames) -> str:
    """A stage and its directory, in rich's markup."""
    return escape(names.of(stage)) + (f"  [dim]{stage.label}[/]" if stage.note else "")


def _rows(stages: Sequence[Stage], store: Store) -> list[dict[str, Any]]:
    """The finished stages' models."""
    with ThreadPoolExecutor(READERS) as pool:
        records = pool.map(lambda stage: read_record(store.directory(stage) / RECORD), stages)
        return [row for record in records if record for row in record["rows"]]


def _tidy(found: Survey, queue: JobQueue, store: Store, console: Console, names: ShortNames) -> None:
    """Set damaged files aside, say what resumes, and drop what a kill left beside a record."""
    for stage in found.damaged:
        for damage in inspect(stage, store)[1]:  # looked at again: another driver may have mended it before we held the lock
            console.print(set_aside(damage, store), highlight=False, soft_wrap=True)
    with ThreadPoolExecutor(READERS) as pool:
        begun = pool.map(lambda stage: (store.directory(stage) / CHECKPOINT).exists(), found.missing)
        for stage, is_begun in zip(found.missing, begun, strict=True):
            if is_begun and queue.waits_for(stage):
                console.print(f"resumes  {_told(stage, names)}", highlight=False, soft_wrap=True)
        list(pool.map(store.drop_leftovers, found.found))


@dataclass(frozen=True, kw_only=True)
class _Runner:
    gpus: float
    slots: Callable[[], int]
    """Stages that run at once, now."""
    at_once: Callable[[], int]
    """Stages to have out; more, where a cluster grows by what waits."""
    run: Callable[[JobQueue, Place, Progress], Outcome]


@contextmanager
def _runner(options: RunOptions, trial: Trial, console: Console) -> Iterator[_Runner]:
    """This process, or a connected Ray, ready to run stages; the trial is for what of a GPU each gets."""
    if options.inline:
        gpus = options.gpus_here()
        check_compiler(options.compile, torch.device("cuda" if gpus else "cpu"))
        check_cuda_graph(options.cuda_graph, gpus, options.workers_per_stage)
        yield _Runner(gpus=gpus, slots=lambda: 1, at_once=lambda: 1, run=run_inline)
        return
    from raysp.engine.ray import cluster, shares  # Ray takes seconds to import
    from raysp.engine.ray import tune as ray_tune  # Ray takes seconds to import

    with shares.connect(options, trial, console) as gpus:
        check_cuda_graph(options.cuda_graph, gpus, options.workers_per_stage)
        request = cluster.Request(num_threads=options.threads_per_stage, gpus=gpus, workers=options.workers_per_stage)
        request.check()
        slots = cluster.Slots(request, options.max_concurrent)
        run = partial(ray_tune.run_on_ray, slots=slots, retries=options.retries)
        yield _Runner(gpus=gpus, slots=slots.now, at_once=slots.to_hand_out, run=run)


def git_state() -> dict[str, Any]:
    """Commit of the checkout that this code is part of, and whether its files have uncommitted changes; empty outside one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside another project's checkout, it is none of that
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}
