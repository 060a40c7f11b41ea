"""What of a training a checkpoint holds.

Owns what goes into a checkpoint and how it is taken back. Refuses to write files (`raysp.engine.context`) or to train.
Contract: a training that goes on from a checkpoint, made between two epochs or in the middle of one, gives the same bits as an
undisturbed one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raysp.training.task import Task

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and JSON."""


class TrainingState:
    """A training between two steps.

    Args:
        task: its model, extra parameters and extra state are part of where it stands.
        optimizer: of the task's parameters.
    """

    def __init__(self, task: Task, optimizer: torch.optim.Optimizer) -> None:
        self._task, self._optimizer = task, optimizer
        extra = {name: tensor for name, (tensor, _) in task.extra_parameters().items()}
        self._named: dict[str, Tensor] = dict(task.model.named_parameters()) | extra
        self.history: list[dict[str, Any]] = []
        """Figures of every finished epoch."""
        self.best: dict[str, Any] = {}
        """The best epoch so far, its mean validation accuracy, and that of every exit; empty while none was eligible."""
        self.best_state: dict[str, Tensor] = {}
        """The model's state at that epoch, on the CPU."""
        self._unread: dict[str, Tensor] = {}
        # Stays on the device, and where it is: reading it each step would wait for the device, and a recorded step adds to it.
        self.loss_sum = torch.zeros((), device=next(iter(self._named.values())).device)
        """Sum of the running epoch's losses, each times this worker's share of the batch."""
        self.begin()

    def begin(self) -> None:
        """Stand at the beginning of an epoch."""
        self.step = 0
        """Steps made of the running epoch."""
        self.time_s = 0.0
        """Seconds that the running epoch took in processes before this one."""
        self.loss_sum.zero_()

    def keep_best(self, accuracies: dict[str, float]) -> None:
        """Note that the model as it is now is the best so far."""
        mean = sum(accuracies.values()) / len(accuracies)
        self.best = {"epoch": len(self.history) + 1, "mean": mean, "val_accuracy": accuracies}
        self.best_state = {name: tensor.detach().cpu().clone() for name, tensor in self._task.model.state_dict().items()}

    def pack(self, time_s: float = 0.0) -> Checkpoint:
        """All of it.

        Args:
            time_s: seconds that the running epoch took so far, in all processes.
        """
        slots = {
            f"{slot}/{name}": value
            for name, parameter in self._named.items()
            for slot, value in self._optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        tensors = (
            _above("model.", self._task.model.state_dict())
            | _above("optimizer.", slots)
            | _above("best.", self.best_state)
            | _above("extra.", self._task.extra_state())
        )
        state: dict[str, Any] = {"history": self.history, "best": self.best}
        if self.step:
            tensors |= _above("sum.", self._task.epoch_sums()) | {"loss_sum": self.loss_sum}
            state["running"] = {"step": self.step, "time_s": time_s}
        return tensors, state

    def unpack(self, checkpoint: Checkpoint) -> None:
        """Take all back but the sums of a running epoch; see `resume_epoch`."""
        tensors, state = checkpoint
        self.history, self.best = state["history"], state["best"]
        self.best_state = _below("best.", tensors)
        self._task.model.load_state_dict(_below("model.", tensors))
        self._task.load_extra_state(_below("extra.", tensors))
        for slot_and_name, value in _below("optimizer.", tensors).items():
            slot, name = slot_and_name.split("/", 1)
            parameter = self._named[name]
            # Adam's count of steps is a scalar; all else lies as the parameter lies.
            like = torch.empty((), device=parameter.device) if slot == "step" else torch.empty_like(parameter)
            self._optimizer.state[parameter][slot] = like.copy_(value)
        if "running" in state:
            self.step, self.time_s = state["running"]["step"], state["running"]["time_s"]
            self.loss_sum.copy_(tensors["loss_sum"])
            self._unread = _below("sum.", tensors)

    def resume_epoch(self, rank: int = 0) -> None:
        """Take the task's sums back, where the checkpoint was made in mid-epoch; once the task has begun that epoch.

        Args:
            rank: of this worker. One worker made the checkpoint, but several may go on: the first takes the sums for all.
        """
        sums = self._task.epoch_sums()
        for name, value in self._unread.items():
            sums[name].copy_(value if rank == 0 else torch.zeros_like(value))
        if rank:
            self.loss_sum.zero_()
        self._unread = {}


def _above(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
