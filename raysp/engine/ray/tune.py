"""Running a plan's stages on Ray: one Ray Tune trial is one stage job.

Owns Ray Tune's side of a run: the searcher that gives jobs out as their parents finish, and the trial. Refuses to know what
stages compute. Contract: the same results as `raysp.engine.inline`; whether a stage is done is read from its record, never from
Tune's own state, which lies in a scratch folder and is not resumed from.
"""

import hashlib
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.tune.trainable.function_trainable import FunctionTrainable
from rich.markup import escape

from raysp.engine import termination
from raysp.engine.context import Place
from raysp.engine.copies import next_to_train, settle
from raysp.engine.job import StageError, run_job
from raysp.engine.process import keep_freed_memory
from raysp.engine.progress import Progress
from raysp.engine.ray.causes import cause_of, low_memory
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.ray.nodes import check_seen_everywhere, end_processes
from raysp.engine.standins import make_own
from raysp.engine.surroundings import own_directory
from raysp.engine.termination import Terminated
from raysp.planning.plan import JobQueue, Outcome
from raysp.store.location import clear
from raysp.store.records import RECORD, SCRATCH, NoLongerOwner, Store, read_record
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile

MAX_PENDING = "64"
"""Trials that may wait for a node; `Slots` decides how many there are."""

SAY_EVERY_S = 60.0
"""Seconds between two lines that say that no node can run a stage."""

LONGEST_PAUSE_S = 30.0
"""Seconds at most before a stage whose worker died is given out again."""


def run_on_ray(queue: JobQueue, place: Place, progress: Progress, *, slots: Slots, retries: int) -> Outcome:
    """Run stages on the connected Ray cluster.

    Args:
        queue: the stages to run.
        place: where results and data are; sent to every worker once.
        progress: told of every start, epoch and end.
        slots: stages that run at once, and what each asks for.
        retries: how often a job is given out again after its worker or machine died, each time after a longer pause
            (`pause_before`); exceptions of the stage's code are not retried.

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
    shared = _Shared(place=ray.put(place), request=slots.request)
    watcher = _Watcher(searcher)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_StageTrial, shared=shared), _resources(slots.request)),
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
        if (
            termination.told()
        ):  # where the signal meets Ray's own code, that raises its own KeyboardInterrupt in Terminated's place
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


def pause_before(retry: int) -> float:
    """Seconds before a stage is tried again, doubled each time. Ray takes a while to notice that a node has gone, and gives it
    what comes meanwhile, so that retries without a pause would all be lost there.

    Args:
        retry: which one of this stage, from 1.
    """
    return min(2.0 ** min(retry - 1, 10), LONGEST_PAUSE_S)


@dataclass(frozen=True)
class _Job:
    """What one trial is to do."""

    stage: Stage
    until: int | None
    """The epoch at which the stage is to pause."""

    def __repr__(self) -> str:
        return self.stage.label  # Tune names the trial's folder by it


@dataclass(frozen=True, kw_only=True)
class _Retry:
    """A job whose worker died, and when it is to be given out again."""

    job: _Job
    due: float
    """By `time.monotonic`."""
    pause_s: float


class GraphSearcher(Searcher):
    """Gives out a graph of stages to Ray Tune, each when its parents have records; one whose worker died again, after a pause."""

    def __init__(self, queue: JobQueue, place: Place, progress: Progress, slots: Slots, retries: int) -> None:
        super().__init__(metric="epoch", mode="max")
        self.queue = queue
        self.progress = progress
        self.running: dict[str, _Job] = {}
        """By trial."""
        self.retries: dict[str, _Retry] = {}
        """What waits to be given out again, by the trial that was lost."""
        self.trials: list[Any] = []
        """Tune's own."""
        self.lost: Exception | None = None
        """Why the run can't go on: the results root is another's, or can't be read."""
        self._place, self._slots, self._retries = place, slots, retries
        self._losses: Counter[str] = Counter()
        """Workers that died, by the stage's key."""
        self._said = 0.0

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Accept whatever Tune sets: there is nothing to search."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next stage that is ready; None while all that is left waits for running ones or a slot; FINISHED at the end."""
        termination.check()
        if len(self.running) >= self._slots.to_hand_out() and self.lost is None:
            self._say_if_stuck()
            return None
        job = None if self.lost else self._due() or self._next()
        if job is None:
            # What runs may have to be tried again, and after FINISHED Tune asks no more. With nothing running or waiting, None
            # would make it poll for minutes: nothing could become ready. Otherwise it asks once a second, so that a pause ends.
            return Searcher.FINISHED if self.lost or not (self.running or self.retries) else None
        self.running[trial_id] = job
        self.progress.started(job.stage)
        return {"job": job}

    def _due(self) -> _Job | None:
        """A job whose pause is over."""
        over = (trial for trial, retry in self.retries.items() if retry.due <= time.monotonic())
        trial = next(over, None)
        return None if trial is None else self.retries.pop(trial).job

    def _next(self) -> _Job | None:
        """A job that is ready for the first time."""
        try:
            stage = next_to_train(self.queue, self._place, self.progress)
        except (NoLongerOwner, OSError) as error:
            self._lose(error)
            return None
        return None if stage is None else _Job(stage, self.queue.until(stage))

    def _lose(self, error: Exception) -> None:
        """Note that the run can't go on."""
        self.lost = self.lost or error
        self.progress.say(f"[bold red]error[/]    {escape(str(error))}; the run ends with the stages that are running")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Believe the record, not Tune."""
        job = self.running.pop(trial_id, None)
        if job is None:
            return
        result = result or {}
        if not error:
            del self._losses[job.stage.key]  # a stage that pauses at rungs is given out several times, each with its own retries
        if error and self.lost is None and self._losses[job.stage.key] < self._retries:
            self._losses[job.stage.key] += 1
            pause_s = pause_before(self._losses[job.stage.key])
            self.retries[trial_id] = _Retry(job=job, due=time.monotonic() + pause_s, pause_s=pause_s)
            return
        if "disowned" in result:
            self.lost = self.lost or NoLongerOwner(result["disowned"])
        try:
            trial = next((trial for trial in self.trials if error and trial.trial_id == trial_id), None)
            cause = f", at last because {low}" if (low := low_memory(_error(trial))) else ""
            self._judge(job.stage, job.until, result.get("error") or result.get("disowned"), error, cause)
        except (NoLongerOwner, OSError) as unread:  # no verdict on the stage
            self._lose(unread)

    def _judge(self, stage: Stage, until: int | None, message: str | None, error: bool, cause: str) -> None:
        """Pass on what became of a stage. Raises OSError where that can't be read, or what goes with it can't be written."""
        record: dict[str, Any] = {}
        if message is None and until is not None and (rows := self._rung(stage, until)):
            self.queue.paused(stage, until, rows)
            self.progress.paused(stage, until)
        elif message is None and (message := self._why_not_done(stage, error, cause, record)) is None:
            self.queue.done(stage, record)
            self.progress.finished(stage, record["rows"])
        else:
            skipped = self.queue.failed(stage, message)
            self.progress.failed(stage, message, skipped)
        settle(self.queue, self._place, self.progress)

    def _rung(self, stage: Stage, epoch: int) -> list[dict[str, Any]]:
        """What a stage was worth at its rung; nothing if it didn't get there."""
        try:
            rungs = self._place.store.read_rungs(stage)
            return rungs[epoch]["rows"] if epoch in rungs else []
        except DamagedFile:
            return []

    def _why_not_done(self, stage: Stage, error: bool, cause: str, record: dict[str, Any]) -> str | None:
        """What to say of a stage without a record; None, and the record filled in, where there is one."""
        path = self._place.store.directory(stage) / RECORD
        try:
            if (found := read_record(path)) is not None:
                record |= found
                return None
        except DamagedFile as damaged:
            return f"{stage.label}: whether it is done can't be told: {damaged}"
        end = f"its worker died {_times(self._losses[stage.key] + 1)}{cause}" if error else "it ended without a record"
        return f"{stage.label}: {end}; run the same command again to go on from its checkpoint"

    def _say_if_stuck(self) -> None:
        if not self._slots.now() and time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            self.progress.say(f"[yellow]waiting[/]  no node can run a stage now, which needs {self._slots.request}")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for a restore that we never make; a live display can't be pickled."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the records are the state."""


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
        self._searcher.progress.say(f"[yellow]lost[/]     {goes_on}{escape(cause_of(_error(trial)))}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._processes.pop(trial.trial_id, None)


def _error(trial: Any) -> str:
    """A trial's last traceback, if there is one."""
    try:
        return Path(trial.error_file).read_text(errors="replace")  # not `get_error`, whose file is written later
    except (OSError, TypeError, AttributeError):
        return ""


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What all trials read, once per process, from the object store of their node."""

    place: Any
    """Reference to the `Place`; the images in it are not copied."""
    request: Request
    """What a stage was promised."""


class _StageTrial(FunctionTrainable):
    """The trial: run a stage in this actor, in a thread of its own. An exception of the stage's code becomes a result, so that
    Tune retries only machine faults.
    """

    def setup(self, config: dict[str, Any], shared: _Shared) -> None:
        termination.install(hand_on=True)  # this is the actor's main thread; stages run in another
        keep_freed_memory()
        self._shared = shared
        self._place: Place = ray.get(shared.place)
        super().setup(config)

    def _trainable_func(self, config: dict[str, Any]) -> None:
        job: _Job = config["job"]
        try:
            tune.report({"epoch": 0, "node": ray.get_runtime_context().get_node_id()})  # which process it is, Tune says
            self._run(job)
        except StageError as error:
            tune.report({"error": str(error), "epoch": 0, "done": True})
        except NoLongerOwner as error:
            tune.report({"disowned": str(error), "epoch": 0, "done": True})
        else:
            tune.report({"epoch": job.until or job.stage.epochs, "done": True})

    def _run(self, job: _Job) -> None:
        request = self._shared.request
        if request.workers == 1:
            run_job(job.stage, self._place, _report, until=job.until)
            return
        from raysp.engine.ray import train as ray_train  # takes seconds to import

        ray_train.run_on_workers(
            job.stage,
            self._shared.place,
            _report,
            until=job.until,
            num_workers=request.workers,
            num_threads=request.num_threads,
            gpus_per_worker=request.gpus,
            scratch=self.logdir,
        )


def _report(figures: dict[str, Any]) -> None:
    tune.report({"epoch": figures.get("epoch", 0), "figures": figures})  # apart from what Tune adds


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
