"""A stage's training processes, as one of them sees them: who it is, what its share is, and what it adds up with the others.

Owns everything that touches `torch.distributed`, and the decision which errors mean that another worker was lost. Refuses to
start processes (`raysp.engine.ray.train`) or to know what is trained. Contract: with one worker nothing here changes a single
bit; with several, all hold the same weights, masks and figures after every step.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
Loss = Callable[[Tensor, Tensor], Tensor]

MIN_SHARD = 2
"""Images that each worker must get for a batch to be shared out: batch norm can't train on a single value."""

_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "connection refused", "broken pipe")
"""What the message of a plain RuntimeError has when it comes from a broken connection; gloo's name its source files."""


class WorkerLost(Exception):
    """Another worker of the stage died, or can't be reached. A fault of a machine, not of the stage's code."""


@dataclass(frozen=True)
class Workers:
    """One of a stage's training processes.

    Args:
        rank: which one, from 0; only 0 writes.
        size: how many there are; with more than one, torch's default process group joins them.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size} workers; expected 0 to {self.size - 1}")

    def shard(self, num: int) -> tuple[slice, float]:
        """This worker's part of a batch.

        Args:
            num: images in the batch.

        Returns:
            Which images, in one piece, and their share of the batch. The shares of all workers add up to 1. A batch too small to
            share out is rank 0's alone; the others see all of it, with share 0, because they must take part in every step.
        """
        if num < MIN_SHARD * self.size:
            return slice(0, num), 1.0 if self.rank == 0 else 0.0
        first, last = self.rank * num // self.size, (self.rank + 1) * num // self.size
        return slice(first, last), (last - first) / num

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the workers; all of one type. Every worker must call it with the same shapes."""
        if self.size == 1 or not tensors:
            return
        with torch.no_grad():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, total in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def mean_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its mean over the workers; see `sum_`."""
        self.sum_(*tensors)
        if self.size > 1:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.div_(self.size)

    def from_first(self, read: Callable[[], T]) -> T:
        """What `read` returns on rank 0, on every worker. The others don't call it: a file may look older from where they are."""
        if self.size == 1:
            return read()
        box: list[T | None] = [read() if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def parallel(self, model: nn.Module, loss: Loss) -> Loss:
        """A loss whose `backward` gives the model's parameters the mean of all workers' gradients.

        Args:
            model: what `loss` trains; all workers take rank 0's parameters.
            loss: from images and labels to a scalar.
                Parameters that no worker's loss depends on get no gradient, as with one worker. A model without any that are
                trained gets its loss back as it is.
        """
        if self.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return loss
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its successor is younger than our torch
            # Looking for unused parameters is needed for closed gates, and keeps DDP from arranging its sums anew after the first
            # step: a training that goes on from a checkpoint would add up in another order than an undisturbed one.
            whole = DistributedDataParallel(_Whole(model, loss), broadcast_buffers=False, find_unused_parameters=True)
        return cast(Loss, whole)


ALONE = Workers()
"""The one worker of a stage that has one."""


class _Whole(nn.Module):
    """DDP watches a module's forward, so all between images and loss must lie inside it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._loss(images, labels)


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error of this process means that another worker was lost."""
    if isinstance(error, dist.DistError | WorkerLost):
        return True
    text = str(error).lower()
    return type(error) is RuntimeError and any(sign in text for sign in _LOST)


@contextmanager
def synchronised_batchnorm(model: nn.Module) -> Iterator[None]:
    """Let a model's batch norms take their statistics over the whole batch for the length of the block (on GPUs alone).

    The model's own modules come back after the block, so that the rest of the code finds what it knows; parameters and
    running statistics are the same tensors all along.
    """
    swapped: list[tuple[nn.Module, str, nn.BatchNorm2d | nn.BatchNorm1d]] = []
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
                setattr(parent, name, _synchronised(norm))
                swapped.append((parent, name, norm))
    try:
        yield
    finally:
        for parent, name, norm in swapped:
            norm.train(cast(nn.Module, getattr(parent, name)).training)
            setattr(parent, name, norm)


def _synchronised(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> nn.SyncBatchNorm:
    twin = nn.SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    twin._parameters, twin._buffers = norm._parameters, norm._buffers
    return twin.train(norm.training)
