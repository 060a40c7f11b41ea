"""One step of a training: loss, gradients, optimizer.

Owns what of a step can be made faster without changing what is computed. Refuses to know what is trained. Contract: nothing in a
step waits for the device, decides anything by a tensor's value, or leaves anything but in tensors that were there before; so a
GPU can repeat it by itself (`raysp.training.replay`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from raysp.engine.workers import Workers
from raysp.models.layout import channels_last, hold_in_bfloat16
from raysp.training.recipes import Recipe
from raysp.training.task import Task

RATE_IN_TENSOR = ("cuda",)
"""Kinds of devices on which the learning rate lies in a tensor, where a recorded step reads it."""


class Step:
    """Trains a task by one batch at a time.

    Args:
        task: what is trained; its model is laid out channels last, and its other networks, which are frozen, are held in the
            steps' precision.
        recipe: says which optimizer.
        workers: among whom each batch is shared out.
    """

    def __init__(self, task: Task, recipe: Recipe, workers: Workers) -> None:
        self._task, self._workers = task, workers
        channels_last(task.model)
        self.optimizer = _build_optimizer(task, recipe)
        self._max_gradient = recipe.max_gradient
        self._bf16 = recipe.precision == "bf16"
        if self._bf16:
            for network in task.networks():
                if network is not task.model:
                    hold_in_bfloat16(network)
        self._loss = workers.parallel(task.model, task.loss)
        self._extra = [parameter for parameter, _ in task.extra_parameters().values()]

    def set_rate(self, lr: float) -> None:
        """Take a learning rate, above 0, for the steps that follow."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * group["lr_share"])
            else:
                group["lr"] = lr * group["lr_share"]

    def __call__(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        """Make a step.

        Args:
            images: (n, c, h, w), this worker's part of a batch.
            labels: (n,).
            share: of the whole batch, in [0, 1].

        Returns:
            The loss before the step, a scalar on the device, without its graph.
        """
        self._task.share = share
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16):
            loss = self._loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        # The workers' gradients are averaged; so weighted, their mean is the gradient of the whole batch's mean loss.
        (loss * (share * self._workers.size)).backward()  # type: ignore[no-untyped-call]
        self._workers.mean_(*(p.grad for p in self._extra if p.grad is not None))
        if self._max_gradient is not None:
            clip_grad_norm_(self._task.model.parameters(), self._max_gradient)
        self.optimizer.step()
        self._task.after_step(self.optimizer)
        return loss.detach()


def _build_optimizer(task: Task, recipe: Recipe) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(task.model.parameters()), "lr_share": 1.0}]
    groups += [{"params": [p], "lr_share": share, "weight_decay": 0.0} for p, share in task.extra_parameters().values()]
    device = next(task.model.parameters()).device
    if device.type in RATE_IN_TENSOR:
        for group in groups:
            group["lr"] = torch.full((), recipe.lr * group["lr_share"], device=device)
    # Fused: one pass over every parameter, its gradient and its moments.
    if recipe.optimizer == "adam":
        capturable = device.type == "cuda"  # changes nothing of what is fused
        return torch.optim.Adam(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True, capturable=capturable)
    sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)
    if recipe.momentum:
        for group in sgd.param_groups:
            for parameter in group["params"]:
                # What it would come to by itself; but fused, all parameters must get their first gradient in the same step, and
                # those of a closed gate don't.
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd
