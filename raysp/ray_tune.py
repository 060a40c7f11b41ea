"""Running a plan's stages on Ray: one Ray Tune trial is one stage job.

Owns everything that touches `ray.tune`: the searcher that gives jobs out as their parents finish, the trial's function, and the
start and end of a local Ray. Refuses to know what stages compute. Contract: the same results as `raysp.inline`; whether a stage
is done is read from its record, never from Tune's own state, which lies in a scratch folder and is not resumed from.
"""

import logging
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from raysp.context import Place
from raysp.job import StageError, run_job
from raysp.plan import JobQueue, Outcome
from raysp.progress import Progress
from raysp.stage import Stage
from raysp.store import RECORD, DamagedFile, NoLongerOwner, read_record

MACHINE_FAULT_RETRIES = 1
"""How often a job is given out again after its worker or machine died; exceptions of the stage's code are not retried."""


class PlacementError(ValueError):
    """No node of the cluster can ever run what a stage asks for."""


@contextmanager
def connect(address: str | None, *, verbose: bool) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    Args:
        address: of a running cluster, or "local" for one of our own that ends with the block; None takes RAY_ADDRESS, or
            what `ray start` started on this machine, or else a local one.
        verbose: let Ray's own messages through.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours: checkpoints are on disk, there is nothing to save
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a notice about a changed default
    if not verbose:
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a table of settings even at verbosity 0
    level = logging.INFO if verbose else logging.ERROR
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        try:
            # None means RAY_ADDRESS, or the last `ray start` here, or a new local Ray; "auto" would also join the private Ray
            # of another sweep, and end with it.
            ray.init(address=address, include_dashboard=False, logging_level=level, log_to_driver=verbose)
        except ConnectionError as error:
            raise ConnectionError(f"{error}; start a cluster there, give another --address, or --address local") from error
        if not verbose:
            logging.getLogger("ray").setLevel(logging.ERROR)
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a dead worker's traceback; we say what it means
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ConnectionError if nothing listens at `host:port`; Ray itself would try for minutes."""
    if match := re.fullmatch(r"\[?([^\[\]/]+)\]?:(\d+)", address):
        try:
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(
                f"no Ray cluster answers at {address} ({error}); start one there, or use --address local"
            ) from None


def count_slots(num_threads: int, gpus_per_stage: float, max_concurrent: int | None) -> int:
    """How many stages run at once on the connected cluster.

    Raises:
        PlacementError: not even one does; the message says what was asked for and what the largest node has.
    """
    asked = {"CPU": float(num_threads)} | ({"GPU": gpus_per_stage} if gpus_per_stage else {})
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(min(int(node.get(kind, 0.0) / need + 1e-9) for kind, need in asked.items()) for node in nodes)
    if not slots:
        wants = ", ".join(f"{need:g} {kind}" for kind, need in asked.items())
        has = "; ".join(", ".join(f"{node.get(kind, 0.0):g} {kind}" for kind in asked) for node in nodes)
        raise PlacementError(f"a stage asks for {wants}, but the cluster's nodes have {has}; ask for less, or add a node")
    return min(slots, max_concurrent or slots)


def cluster_has_gpu() -> bool:
    """Whether any node of the connected cluster has a GPU."""
    return bool(ray.cluster_resources().get("GPU"))


def run_on_ray(missing: Sequence[Stage], place: Place, progress: Progress, *, slots: int, gpus_per_stage: float) -> Outcome:
    """Run stages on the connected Ray cluster.

    Args:
        missing: the stages to run, ancestors first.
        place: where results and data are; sent to every worker once.
        progress: told of every start, epoch and end.
        slots: stages that run at once, at most.
        gpus_per_stage: GPUs (or the share of one) that each stage holds.

    Returns:
        What became of every stage; failures don't raise.

    Raises:
        NoLongerOwner: another run has taken the results root over.
    """
    searcher = GraphSearcher(missing, place, progress)
    scratch = place.store.root / ".tune"  # ours while we hold the lock; nothing in it outlives the run
    shutil.rmtree(scratch, ignore_errors=True)
    trainable = tune.with_parameters(_train, stages={stage.key: stage for stage in missing}, place=place)
    resources = {"cpu": place.num_threads} | ({"gpu": gpus_per_stage} if gpus_per_stage else {})
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=slots, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MACHINE_FAULT_RETRIES),
            callbacks=[_Watcher(searcher)],
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if searcher.disowned:
        raise NoLongerOwner(searcher.disowned)
    return searcher.queue.outcome


class GraphSearcher(Searcher):
    """Gives out a graph of stages to Ray Tune, each when its parents have records."""

    def __init__(self, missing: Sequence[Stage], place: Place, progress: Progress) -> None:
        super().__init__(metric="epoch", mode="max")
        self.queue = JobQueue(missing)
        self.progress = progress
        self.running: dict[str, Stage] = {}
        self.disowned = ""
        self._place = place

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Accept whatever Tune sets: there is nothing to search."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next stage that is ready; None while all that is left waits for running ones; FINISHED at the end."""
        stage = None if self.disowned else self.queue.next()
        if stage is None:
            # With nothing running, None would make Tune poll for minutes: nothing could become ready any more.
            return Searcher.FINISHED if self.disowned or self.queue.exhausted or not self.running else None
        self.running[trial_id] = stage
        self.progress.started(stage)
        return {"stage": stage.key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Believe the record, not Tune."""
        stage = self.running.pop(trial_id)
        result = result or {}
        self.disowned = self.disowned or result.get("disowned", "")
        message = result.get("error") or result.get("disowned")
        if message is None:
            message = self._why_not_done(stage, error)
        if message is None:
            self.queue.done(stage)
            self.progress.finished(stage)
        else:
            skipped = self.queue.failed(stage, message)
            self.progress.failed(stage, message, skipped)

    def _why_not_done(self, stage: Stage, error: bool) -> str | None:
        path = self._place.store.directory(stage) / RECORD
        try:
            if read_record(path) is not None:
                return None
        except DamagedFile as damaged:
            return str(damaged)
        cause = f"its worker died {MACHINE_FAULT_RETRIES + 1} times" if error else "it ended without a record"
        return f"{stage.label}: {cause}; run the same command again to go on from its checkpoint"

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for a restore that we never make; a live display can't be pickled."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the records are the state."""


class _Watcher(tune.Callback):
    """Passes each epoch's figures on to the progress display."""

    def __init__(self, searcher: GraphSearcher) -> None:
        self._searcher = searcher

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        stage = self._searcher.running.get(trial.trial_id)
        if stage is not None and "epochs" in result:
            self._searcher.progress.epoch(stage, result)


def _train(config: dict[str, Any], stages: dict[str, Stage], place: Place) -> None:
    """The trial: run the stage in this actor. An exception becomes a result, so that Tune retries only machine faults."""
    stage = stages[config["stage"]]
    try:
        run_job(stage, place, _report)
    except StageError as error:
        tune.report({"error": str(error), "epoch": 0})
    except NoLongerOwner as error:
        tune.report({"disowned": str(error), "epoch": 0})
    else:
        tune.report({"epoch": stage.epochs})


def _report(figures: dict[str, Any]) -> None:
    tune.report({"epochs": figures.get("epochs", 0), **figures})
