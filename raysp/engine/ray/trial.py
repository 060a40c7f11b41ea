"""A trial of Ray Tune's: one stage job, in an actor of the cluster.

Owns what a worker does with a job. Refuses to choose it (`raysp.engine.ray.searcher`). Contract: an exception of the stage's code
becomes a result, so that what Tune sees fail are machines alone.
"""

from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.trainable.function_trainable import FunctionTrainable

from raysp.engine import termination
from raysp.engine.context import Place
from raysp.engine.job import StageError, run_job
from raysp.engine.process import keep_freed_memory
from raysp.engine.ray.cluster import Request
from raysp.store.records import NoLongerOwner
from raysp.store.stage import Stage


@dataclass(frozen=True)
class Job:
    """What one trial is to do."""

    stage: Stage
    until: int | None
    """The epoch at which the stage is to pause."""

    def __repr__(self) -> str:
        return self.stage.label  # Tune names the trial's folder by it


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials read, once per process, from the object store of their node."""

    place: Any
    """Reference to the `Place`; the images in it are not copied."""
    request: Request
    """What a stage was promised."""


class StageTrial(FunctionTrainable):
    """Runs jobs in this actor, one after the other, each in a thread of its own."""

    def setup(self, config: dict[str, Any], shared: Shared) -> None:
        """Once per actor, before its first job."""
        termination.install(hand_on=True)  # this is the actor's main thread; stages run in another
        keep_freed_memory()
        self._shared = shared
        self._place: Place = ray.get(shared.place)
        super().setup(config)

    def _trainable_func(self, config: dict[str, Any]) -> None:
        job: Job = config["job"]
        try:
            tune.report({"epoch": 0, "node": ray.get_runtime_context().get_node_id()})  # which process it is, Tune says
            self._run(job)
        except StageError as error:
            tune.report({"error": str(error), "epoch": 0, "done": True})
        except NoLongerOwner as error:
            tune.report({"disowned": str(error), "epoch": 0, "done": True})
        else:
            tune.report({"epoch": job.until or job.stage.epochs, "done": True})

    def _run(self, job: Job) -> None:
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
