"""Running one stage on several workers with Ray Train.

Owns everything that touches `ray.train`: the trainer of one stage, its workers' function, and what their deaths and errors mean.
Refuses to retry (Ray Tune does) and to keep checkpoints (the store does). Contract: the caller hears of every epoch, and of one
error: the stage's own, whoever of the workers raised it first and whatever the others made of that, or else that workers were
lost.
"""

import os
import queue
import threading
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysp.engine.context import Report
from raysp.engine.job import StageError, run_job
from raysp.engine.workers import WorkerLost, Workers
from raysp.store.records import NoLongerOwner
from raysp.store.stage import Stage

POLL_S = 0.2
"""How often workers are asked for news, and news are looked for."""

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(POLL_S),
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Of Ray Train, where the user has set nothing else: prompt news, and no processes, logs or directories that nobody needs."""


def run_on_workers(
    stage: Stage,
    place: "ray.ObjectRef[Any]",
    report: Report,
    *,
    until: int | None = None,
    num_workers: int,
    num_threads: int,
    gpus_per_worker: float = 0.0,
    scratch: str,
) -> None:
    """Run one stage whose parents are done on several workers at once; returns when its record is there, or it has paused.

    The process that calls this needs to hold no CPU or GPU of the cluster, but the workers must find theirs free.

    Args:
        stage: the stage to run.
        place: a `Place` in Ray's object store; each node's workers share its images.
        report: called once per epoch in this thread, with the figures of rank 0.
        until: the epoch after which the stage is to pause.
        num_workers: training processes, at least 1; each gets its part of every batch.
        num_threads: CPUs that each worker holds.
        gpus_per_worker: GPUs, or the share of one, that each worker holds; 0 trains on CPUs.
        scratch: a directory of this machine for what Ray Train writes; nothing in it matters.

    Raises:
        StageError: the stage's code raised.
        NoLongerOwner: another run has taken the results root over.
        WorkerLost: a worker or its machine died; the stage can go on from its last checkpoint.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    news = _queue_here()
    try:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "stage": stage,
                "until": until,
                "place": [place],
            },  # in a list, so that nobody fetches it on the way
            torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=num_workers,
                use_gpu=bool(gpus_per_worker),
                resources_per_worker={"CPU": num_threads} | ({"GPU": gpus_per_worker} if gpus_per_worker else {}),
                placement_strategy="PACK",
            ),
            run_config=RunConfig(
                name=stage.label,
                storage_path=str(Path(scratch) / uuid.uuid4().hex),  # a new one each time: nothing is to be resumed from it
                failure_config=FailureConfig(max_failures=0),
                callbacks=[_PassOn(news)],
            ),
        )
        _fit(trainer, news, report)
    finally:
        news.shutdown(force=True)


def _queue_here() -> Queue:
    """A queue that any process of the cluster can put into. It lies on this node: what asks for no CPU Ray may put anywhere, and
    the loss of a machine that trains nothing of the stage would end the stage.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _fit(trainer: TorchTrainer, news: Queue, report: Report) -> None:
    """Train in another thread, so that the epochs are reported from this one."""
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    ended = False
    while not ended:
        ended = not thread.is_alive()  # asked before the look: nothing comes after the last one
        try:
            while True:
                report(news.get(block=not ended, timeout=None if ended else POLL_S))
        except queue.Empty:
            continue
    if errors:
        raise _meaning(errors[0]) from errors[0]


class _PassOn(UserCallback):  # type: ignore[misc]
    """Passes rank 0's figures on to the process that waits for the stage. Lives in Ray Train's controller."""

    def __init__(self, news: Queue) -> None:
        self._news = news

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self._news.put(metrics[0])


def _work(config: dict[str, Any]) -> None:
    """One worker's part; Ray Train has joined the workers and chosen the GPU."""
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    run_job(config["stage"], ray.get(config["place"][0]), _tell, workers, until=config["until"])


def _tell(figures: dict[str, Any]) -> None:
    """Report an epoch. Where another worker has died, Ray may already have ended what its reports wait for."""
    try:
        ray.train.report(figures)
    except ray.exceptions.RayError as error:
        raise WorkerLost(f"this epoch's report came to nothing ({error})") from error


def _meaning(error: BaseException) -> BaseException:
    """What the end of a training means: the error of the lowest rank that has one of its own, or that workers were lost."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        if isinstance(failure, StageError | NoLongerOwner):
            return failure
    found = [f"worker {rank}: {str(failure).strip() or type(failure).__name__}" for rank, failure in sorted(failures.items())]
    return WorkerLost("; ".join(found) or str(error))
