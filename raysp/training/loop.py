"""The training loop that all stages share.

Owns epochs: steps, evaluation on the validation part, choice of the best epoch, when to save. Refuses to know what is trained; a
`Task` gives the loss and what happens between epochs. Contract: on one CPU with a fixed number of threads the result is the same
bit for bit, however often the loop was interrupted; on several workers it is the same but for the rounding of sums, wherever
batch norm's statistics are (`raysp.engine.workers`).
"""

import hashlib
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raysp.engine.compiling import compiled
from raysp.engine.context import Context
from raysp.engine.termination import Notice, Terminated, noticed
from raysp.engine.workers import ALONE, Workers, synchronised_batchnorm
from raysp.models.network import Network
from raysp.training.batches import Batches, Pick
from raysp.training.checkpoint import TrainingState
from raysp.training.recipes import Recipe
from raysp.training.replay import Replayed, own_stream
from raysp.training.step import Step
from raysp.training.task import Task

CHECKPOINT_PAUSE = 20.0
"""Between two checkpoints at least so many times the seconds that the last one took: so at most a twentieth of the time goes
into them, and a kill costs at most an epoch more than that pause. A wide network's take a second, as long as an epoch on a fast
GPU."""


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

    A checkpoint is made after the first epoch here, then after an epoch when `CHECKPOINT_PAUSE` is over; always before a pause;
    and, with one worker, after the step in which SIGTERM comes. Of several workers each must call this.

    Args:
        task: what to train.
        recipe: epochs, batch size and optimizer.
        seed: of the order and augmentation of images.
        batches: the data, on the model's device.
        context: reports each epoch, keeps the checkpoint, and knows the workers.

    Raises:
        FloatingPointError: an epoch's loss is NaN or infinite.
        Paused: the epoch is reached up to which the context lets it train.
        ValueError: the networks are to be compiled, and this machine can't.
        Terminated: SIGTERM came, and a checkpoint was made.
    """
    with ExitStack() as stack:
        if context.sync_batchnorm:
            stack.enter_context(synchronised_batchnorm(task.model))
        stack.enter_context(compiled(task.networks(), context.compile, context.device))
        if context.uses_graph:
            stack.enter_context(own_stream())
        loop = _Loop(task, recipe, seed, batches, context, stack.enter_context(noticed()))
        try:
            return loop.run()
        finally:
            loop.replayed = None  # it holds the loop: what a recorded step occupies of a GPU would stay for the next stage


class _Loop:
    """One training in this process."""

    def __init__(self, task: Task, recipe: Recipe, seed: int, batches: Batches, context: Context, notice: Notice) -> None:
        self.task, self.recipe, self.seed, self.batches = task, recipe, seed, batches
        self.context, self.workers, self.notice = context, context.workers, notice
        self.step = Step(task, recipe, self.workers)
        self.state = TrainingState(task, self.step.optimizer)
        self.replayed = Replayed(self.one, task.decided, recipe.batch_size, context.device) if context.uses_graph else None
        if checkpoint := context.load_checkpoint():
            self.state.unpack(checkpoint)
        self.clock, self.next_save = time.monotonic(), -math.inf

    def run(self) -> Trained:
        state = self.state
        self.context.pause_if_due(state.history, self.task.deployed)
        for epoch in range(len(state.history), self.recipe.epochs):
            self.clock = time.monotonic() - state.time_s
            lr = self.recipe.lr_at(epoch)
            self.step.set_rate(lr)
            self.task.begin_epoch(epoch)
            state.resume_epoch(self.workers.rank)
            mean_loss = self.steps(epoch)
            if not math.isfinite(mean_loss):
                raise FloatingPointError(
                    f"the loss of epoch {epoch + 1} is {mean_loss}; try a learning rate below {lr:g}, or smaller loss weights"
                )
            accuracies = accuracy(self.task.model, self.batches, "val", self.workers)
            mean_accuracy = sum(accuracies.values()) / len(accuracies)
            # Of equal epochs the later one: it has trained longer, and small validation parts tie often.
            if self.task.eligible(epoch) and mean_accuracy >= state.best.get("mean", -1.0):
                state.keep_best(accuracies)
            figures = {"epoch": epoch + 1, "loss": mean_loss, "lr": lr, "val_accuracy": mean_accuracy, "val_by_exit": accuracies}
            figures |= self.task.end_epoch(epoch, self.step.optimizer)
            state.history.append(figures | {"time_s": time.monotonic() - self.clock})
            state.begin()
            if self.notice.given or time.monotonic() >= self.next_save or self.context.pauses_after(epoch + 1):
                self.save()
            self.context.report(
                {
                    "epochs": self.recipe.epochs,
                    "best_val_accuracy": state.best.get("mean", mean_accuracy),
                    **state.history[-1],
                }
            )
            self.context.pause_if_due(state.history, self.task.deployed)
        if self.notice.given:  # since the last look
            self.save()
        best = state.best
        assert best, "no epoch was eligible"
        return Trained(
            history=state.history,
            best_epoch=best["epoch"],
            val_accuracy=best["val_accuracy"],
            best_state=state.best_state,
        )

    def steps(self, epoch: int) -> float:
        """The epoch's steps that are left; its mean loss, and the model and the task's sums equal on all workers."""
        task, state, workers = self.task, self.state, self.workers
        task.model.train()
        if self.replayed:
            self.replayed.begin_epoch()
        one = self.replayed or self.one
        for pick in self.batches.picks(self.recipe.batch_size, self.seed, epoch, workers, state.step):
            self.notice.safe.clear()
            one(pick)
            state.step += 1
            task.between_steps(state.step, workers)
            if self.notice.given and workers.size == 1:
                self.save()
        workers.sum_(state.loss_sum, *task.epoch_sums().values())
        workers.mean_(*_running_statistics(task.model))
        return float(state.loss_sum) / self.batches.num_batches(self.recipe.batch_size)

    def one(self, pick: Pick) -> None:
        """A whole step, from the images to the sum of losses."""
        images, labels = self.batches.take(pick)
        self.task.first_image = pick.first
        self.state.loss_sum.add_(pick.share * self.step(images, labels, pick.share))

    def save(self) -> None:
        started = time.monotonic()
        self.context.save_checkpoint(*self.state.pack(started - self.clock))
        ended = time.monotonic()
        self.next_save = ended + CHECKPOINT_PAUSE * (ended - started)
        self.notice.safe.set()
        if self.notice.given:
            raise Terminated


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How much of a part of the data a model has right."""

    images: list[int]
    """By class, in the order of labels: how many there are."""
    right: dict[str, list[int]]
    """Of each exit, by class: how many of them it has right."""

    def accuracy(self) -> dict[str, float]:
        """Percent per exit, of all images."""
        return {name: 100.0 * float(sum(right)) / sum(self.images) for name, right in self.right.items()}


def tally(model: Network, batches: Batches, part: str, workers: Workers = ALONE) -> Tally:
    """Count what every exit has right of a part of the data, in one pass; leaves the model in evaluation mode.

    Args:
        model: the same on all workers.
        batches: the data, on the model's device.
        part: "train", "val" or "test".
        workers: they share the part out; each must call this, and gets the counts over all of it.
    """
    model.eval()
    seen: list[Tensor] = []
    hits: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for images, labels in batches.in_order(part, workers=workers):
            seen.append(labels)
            for name, logits in model.forward(images).logits.items():  # never compiled: its sizes come once per epoch
                hits.setdefault(name, []).append(logits.argmax(dim=1) == labels)
        # Classes are told apart once, behind the last batch: counts are whole numbers, which add up the same in any order.
        by_image = torch.cat(seen)
        none = by_image.new_zeros(logits.shape[1])
        counts = [none.index_add(0, by_image, torch.cat(found).to(by_image.dtype)) for found in hits.values()]
        counts.append(none.index_add(0, by_image, torch.ones_like(by_image)))
        workers.sum_(*counts)
    *right, of_class = (count.tolist() for count in counts)
    # Of a part too small to share out all workers see all; their sums are multiples of the same numbers.
    repeats = sum(of_class) // batches.num_images(part)
    return Tally(
        images=[count // repeats for count in of_class],
        right={name: [count // repeats for count in counted] for name, counted in zip(hits, right, strict=True)},
    )


def accuracy(model: Network, batches: Batches, part: str, workers: Workers = ALONE) -> dict[str, float]:
    """Accuracy in percent of every exit on a part of the data; as `tally`."""
    return tally(model, batches, part, workers).accuracy()


def seed_torch(seed: int, purpose: str) -> None:
    """Seed torch's generators for one purpose, so that two stages of one seed start from different weights."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:7]))


def _running_statistics(model: nn.Module) -> list[Tensor]:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.SyncBatchNorm)]
    return [found for norm in norms for found in (norm.running_mean, norm.running_var) if found is not None]
