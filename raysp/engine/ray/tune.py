"""Running a plan's stages on Ray: one Ray Tune trial is one stage job.

Owns Ray Tune's run: its folder, its resources, and the events that it tells of. Refuses to choose jobs
(`raysp.engine.ray.searcher`), to run them (`raysp.engine.ray.trial`) and to know what stages compute. Contract: the same results
as `raysp.engine.inline`; whether a stage is done is read from its record, never from Tune's own state, which lies in a scratch
folder and is not resumed from.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.markup import escape

from raysp.engine import termination
from raysp.engine.context import Place
from raysp.engine.progress import Progress
from raysp.engine.ray.causes import cause_of, last_error
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.ray.nodes import check_seen_everywhere, end_processes
from raysp.engine.ray.searcher import GraphSearcher
from raysp.engine.ray.trial import Shared, StageTrial
from raysp.engine.standins import make_own
from raysp.engine.surroundings import own_directory
from raysp.engine.termination import Terminated
from raysp.planning.plan import JobQueue, Outcome
from raysp.store.location import clear
from raysp.store.records import SCRATCH, Store

MAX_PENDING = "64"
"""Trials that may wait for a node; `Slots` decides how many there are."""


def run_on_ray(queue: JobQueue, place: Place, progress: Progress, *, slots: Slots, retries: int) -> Outcome:
    """Run stages on the connected Ray cluster.

    Args:
        queue: the stages to run.
        place: where results and data are; sent to every worker once.
        progress: told of every start, epoch and end.
        slots: stages that run at once, and what each asks for.
        retries: how often a job is given out again after its worker or machine died, each time after a longer pause
            (`raysp.engine.ray.searcher.pause_before`); exceptions of the stage's code are not retried.

    Returns:
        What became of every stage; failures don't raise.

    Raises:
        NoLongerOwner: another run has taken the results root over.
        OSError: what became of a stage can't be read.
        ValueError: a node doesn't see the results root.
    """
    check_seen_everywhere(place.store)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = MAX_PENDING
    searcher = GraphSearcher(queue, place, progress, slots, retries)
    scratch = _scratch(place.store)
    clear(scratch)
    shared = Shared(place=ray.put(place), request=slots.request)
    watcher = _Watcher(searcher)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(StageTrial, shared=shared), _resources(slots.request)),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # Tune would try again at once; the searcher waits
            callbacks=[watcher],
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        # Where SIGTERM meets Ray's own code, that raises its own KeyboardInterrupt in Terminated's place.
        if termination.told():
            watcher.end_workers()
            raise Terminated from None
        raise
    finally:
        clear(scratch)
    if searcher.lost:
        raise searcher.lost
    return searcher.queue.outcome


def _resources(request: Request) -> tune.PlacementGroupFactory:
    """What a trial holds: its worker's resources; or, where Ray Train starts the workers, a byte of memory, which every node
    has.
    """
    return tune.PlacementGroupFactory([request.per_worker if request.workers == 1 else {"memory": 1}])


def _scratch(store: Store) -> Path:
    """Tune's folder, the same for every run in a results root, so that the next one clears what a killed one leaves."""
    if isinstance(store.root, Path):
        return store.root / SCRATCH
    ours = own_directory(Path(tempfile.gettempdir()))
    if not make_own(ours):
        return Path(tempfile.mkdtemp(prefix="raysp-"))  # somebody else was there before
    return ours / hashlib.sha256(str(store.root).encode()).hexdigest()[:12]


class _Watcher(tune.Callback):
    """Passes each epoch's figures on to the progress display, and knows which processes run stages."""

    def __init__(self, searcher: GraphSearcher) -> None:
        self._searcher = searcher
        self._processes: dict[str, tuple[str, int]] = {}
        """Node and process of each trial that runs."""

    def end_workers(self) -> None:
        """Tell the processes that run stages to save and end, and wait until they have."""
        end_processes(self._processes.values())

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._searcher.trials = trials

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "node" in result:
            self._processes[trial.trial_id] = result["node"], result["pid"]
        job = self._searcher.running.get(trial.trial_id)
        if job is not None and "figures" in result:
            self._searcher.progress.epoch(job.stage, result["figures"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._processes.pop(trial.trial_id, None)
        retry = self._searcher.retries.get(trial.trial_id)  # Tune has told the searcher before
        goes_on = f"{retry.job.stage.label} goes on from its checkpoint in {retry.pause_s:g} s: " if retry else ""
        self._searcher.progress.say(f"[yellow]lost[/]     {goes_on}{escape(cause_of(last_error(trial)))}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._processes.pop(trial.trial_id, None)
