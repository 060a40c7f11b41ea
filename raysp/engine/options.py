"""Where and how a sweep runs.

Owns the options and their ranges. Contract: nothing here changes a result's identity.
"""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from raysp.engine.tracking.wanted import Wanted, wanted

Compile = Literal["off", "on"]
"""Whether networks are compiled (`raysp.engine.compiling`)."""
CudaGraph = Literal["auto", "on", "off"]
"""Whether training steps are recorded as CUDA graphs and replayed (`raysp.training.replay`); `auto`: on GPUs, by one worker."""
Gpus = float | Literal["auto"]
"""GPUs of a stage; `auto` is a share of one that is measured (`raysp.engine.packing.rule`)."""
Stopping = Literal["none", "pareto"]
"""Whether configurations are given up (`raysp.planning.halving`)."""

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
    gpus_per_stage: Gpus | None = None
    """GPUs, or the share of one, that each worker of a stage holds; 0 trains on the CPU, None takes 1 where the cluster has
    GPUs, "auto" the share that makes all stages together fastest."""
    threads_per_stage: int = 1
    """CPU threads per stage, at least 1. Float sums depend on it, so it is fixed whatever else runs."""
    compile: Compile = "off"
    """Whether networks are compiled while they train, with one worker per stage; float sums depend on it, as on the threads."""
    cuda_graph: CudaGraph = "auto"
    """Whether a GPU repeats a recorded step by itself, with one worker per stage; no result depends on it."""
    stopping: Stopping = "none"
    """Whether half of the configurations is given up at each rung (`raysp.planning.halving`)."""
    track: tuple[str, ...] = ()
    """Trackers that are told what becomes of stages: `mlflow:URI`, `wandb:PROJECT`, `tensorboard:DIR`."""
    verbose: bool = False
    """Let Ray's own messages through."""

    @cached_property
    def trackers(self) -> tuple[Wanted, ...]:
        """Those of `track`, each once. Raises ValueError."""
        return tuple(dict.fromkeys(wanted(text) for text in self.track))

    @property
    def fixed_gpus(self) -> float | None:
        """GPUs of a stage, where a number was asked for."""
        return None if self.gpus_per_stage == "auto" else self.gpus_per_stage

    def gpus_here(self) -> float:
        """GPUs of a stage in this process: those that were asked for, else 1 where there is one.

        Raises:
            ValueError: some were asked for, and there is none.
        """
        import torch  # takes seconds, which a flag that is refused need not wait for

        gpus = self.fixed_gpus
        if gpus and not torch.cuda.is_available():
            raise ValueError(f"gpus_per_stage is {gpus:g}, but torch finds no GPU here; expected 0, or leave it out")
        return (1.0 if gpus is None else gpus) * torch.cuda.is_available()

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
        if self.gpus_per_stage == "auto" and self.inline:
            raise ValueError("gpus_per_stage is auto, and inline; expected one of them: inline runs one stage at a time")
        if self.gpus_per_stage == "auto" and self.workers_per_stage > 1:
            raise ValueError(
                f"gpus_per_stage is auto, and {self.workers_per_stage} workers_per_stage; expected one of them: NCCL takes one "
                "worker per GPU"
            )
        _ = self.trackers
        gpus = self.fixed_gpus
        check_cuda_graph(self.cuda_graph, 1.0 if gpus is None else gpus, self.workers_per_stage)
        if gpus is not None and not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or float(gpus).is_integer())):
            raise ValueError(f"gpus_per_stage is {gpus:g}; expected a share from 0 to 1, or a whole number")
        if gpus is not None and self.workers_per_stage > 1 and not float(gpus).is_integer():
            raise ValueError(
                f"gpus_per_stage is {gpus:g} with {self.workers_per_stage} workers_per_stage; expected a whole number for each "
                "worker, or 0: NCCL takes one worker per GPU"
            )


def check_cuda_graph(cuda_graph: CudaGraph, gpus: float, workers: int) -> None:
    """Refuse what can't be recorded on any machine.

    Args:
        cuda_graph: what is asked for.
        gpus: that a stage has.
        workers: that a stage has.

    Raises:
        ValueError: it is asked for without a GPU, or for several workers.
    """
    if cuda_graph != "on":
        return
    if workers > 1:
        raise ValueError(
            f"cuda_graph is on, and {workers} workers_per_stage; expected one of them: workers wait for one another in mid-step"
        )
    if not gpus:
        raise ValueError("cuda_graph is on, but stages have no GPU; expected auto or off, or --gpus-per-stage above 0")


def uses_graph(cuda_graph: CudaGraph, gpus: float, workers: int) -> bool:
    """Whether steps are recorded; see `check_cuda_graph`, whose errors it raises."""
    check_cuda_graph(cuda_graph, gpus, workers)
    return cuda_graph != "off" and bool(gpus) and workers == 1
