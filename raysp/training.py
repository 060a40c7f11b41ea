"""The training loop that all stages share.

Owns epochs: steps, evaluation on the validation part, choice of the best epoch, checkpoints. Refuses to know what is trained; a
`Task` gives the loss and what happens between epochs. Contract: on one CPU with a fixed number of threads the result is the same
bit for bit, however often the loop was interrupted.
"""

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raysp.batches import Batches
from raysp.context import Context
from raysp.models.network import Network
from raysp.schedules import Recipe


class Task:
    """What a stage trains. Subclasses give `loss`, and override what else they need.

    Args:
        model: the network whose parameters are trained; must be on its device.
    """

    def __init__(self, model: Network) -> None:
        self.model = model

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of a batch; the model is in training mode."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Called before an epoch (from 0), also when training resumes there."""

    def extra_parameters(self) -> dict[str, tuple[Tensor, float]]:
        """Leaf tensors to train beside the model's parameters, each with its share of the recipe's learning rate; not decayed."""
        return {}

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after every optimizer step."""

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Called after an epoch's evaluation; what it returns joins the epoch's figures."""
        return {}

    def eligible(self, epoch: int) -> bool:
        """Whether the model of this epoch may be chosen as the best."""
        return True

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beyond the model's that a checkpoint must keep."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take `extra_state` back."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training gave."""

    history: list[dict[str, Any]]
    """Figures per epoch; `val_accuracy` is the mean over the exits, `val_by_exit` has each."""
    best_epoch: int
    """The chosen epoch, from 1: the last of those eligible with the highest mean validation accuracy over the exits."""
    val_accuracy: dict[str, float]
    """Percent per exit at the chosen epoch."""
    best_state: dict[str, Tensor]
    """The model's state at the chosen epoch, on the CPU."""


def train(task: Task, recipe: Recipe, seed: int, batches: Batches, context: Context) -> Trained:
    """Train a task by its recipe, from its last checkpoint if there is one.

    Args:
        task: what to train.
        recipe: epochs, batch size and optimizer.
        seed: of the order and augmentation of images.
        batches: the data, on the model's device.
        context: reports each epoch and keeps the checkpoint.

    Raises:
        FloatingPointError: an epoch's loss is NaN or infinite.
    """
    model = task.model
    named = dict(model.named_parameters()) | {name: tensor for name, (tensor, _) in task.extra_parameters().items()}
    optimizer = _build_optimizer(task, recipe)
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    best_state: dict[str, Tensor] = {}
    if checkpoint := context.load_checkpoint():
        tensors, state = checkpoint
        history, best = state["history"], state["best"]
        best_state = _below("best.", tensors)
        model.load_state_dict(_below("model.", tensors))
        task.load_extra_state(_below("extra.", tensors))
        for slot_and_name, value in _below("optimizer.", tensors).items():
            slot, name = slot_and_name.split("/", 1)
            # Adam counts its steps on the CPU wherever the parameter is.
            optimizer.state[named[name]][slot] = value if slot == "step" else value.to(named[name].device)
    for epoch in range(len(history), recipe.epochs):
        clock = time.monotonic()
        lr = recipe.lr_at(epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        task.begin_epoch(epoch)
        mean_loss = _one_epoch(task, optimizer, recipe, seed, epoch, batches)
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the loss of epoch {epoch + 1} is {mean_loss}; try a learning rate below {lr:g}, or smaller loss weights"
            )
        accuracies = accuracy(model, batches, "val")
        mean_accuracy = sum(accuracies.values()) / len(accuracies)
        # Of equal epochs the later one: it has trained longer, and small validation parts tie often.
        if task.eligible(epoch) and mean_accuracy >= best.get("mean", -1.0):
            best = {"epoch": epoch + 1, "mean": mean_accuracy, "val_accuracy": accuracies}
            best_state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        figures = {"epoch": epoch + 1, "loss": mean_loss, "lr": lr, "val_accuracy": mean_accuracy, "val_by_exit": accuracies}
        figures |= task.end_epoch(epoch, optimizer)
        history.append(figures | {"time_s": time.monotonic() - clock})
        slots = {
            f"{slot}/{name}": value
            for name, parameter in named.items()
            for slot, value in optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        context.save_checkpoint(
            _above("model.", model.state_dict())
            | _above("optimizer.", slots)
            | _above("best.", best_state)
            | _above("extra.", task.extra_state()),
            {"history": history, "best": best},
        )
        context.report({"epochs": recipe.epochs, "best_val_accuracy": best.get("mean", mean_accuracy), **history[-1]})
    assert best, "no epoch was eligible"
    return Trained(history=history, best_epoch=best["epoch"], val_accuracy=best["val_accuracy"], best_state=best_state)


def accuracy(model: Network, batches: Batches, part: str) -> dict[str, float]:
    """Accuracy in percent of every exit on a part of the data ("train", "val", "test"); leaves the model in evaluation mode."""
    model.eval()
    correct: dict[str, Tensor] = {}
    total = 0
    with torch.inference_mode():
        for images, labels in batches.in_order(part):
            total += len(labels)
            for name, logits in model(images).logits.items():
                correct[name] = correct.get(name, torch.zeros((), device=labels.device)) + (logits.argmax(dim=1) == labels).sum()
    return {name: 100.0 * float(count) / total for name, count in correct.items()}


def seed_torch(seed: int, purpose: str) -> None:
    """Seed torch's generators for one purpose, so that two stages of one seed start from different weights."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:7]))


def _build_optimizer(task: Task, recipe: Recipe) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(task.model.parameters()), "lr_share": 1.0}]
    groups += [{"params": [p], "lr_share": share, "weight_decay": 0.0} for p, share in task.extra_parameters().values()]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _one_epoch(task: Task, optimizer: torch.optim.Optimizer, recipe: Recipe, seed: int, epoch: int, batches: Batches) -> float:
    task.model.train()
    total: Tensor | float = 0.0  # stays on the device: reading it each step would wait for the device
    for images, labels in batches.train(recipe.batch_size, seed, epoch):
        loss = task.loss(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        task.after_step(optimizer)
        total = total + loss.detach()
    return float(total) / batches.num_batches(recipe.batch_size)


def _above(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
