"""What a stage trains, as the loop over epochs sees it.

Owns the interface alone: a loss, and what happens between steps and epochs. Refuses to step (`raysp.training.step`) or to
evaluate (`raysp.training.loop`).
"""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from raysp.engine.workers import Workers
from raysp.models.network import Network


class Task:
    """What a stage trains. Subclasses give `loss`, and override what else they need.

    Args:
        model: the network whose parameters are trained; must be on its device.
    """

    def __init__(self, model: Network) -> None:
        self.model = model
        self.share = 1.0
        """Of the whole batch, in [0, 1]: what `loss` gets of it. Where it is 0, another worker counts these images."""
        self.first_image = 0
        """Place in the whole batch of the first image that `loss` gets, from 0."""

    def networks(self) -> list[Network]:
        """All that `loss` passes images through."""
        return [self.model]

    def decided(self) -> Hashable:
        """What `loss` and `after_step` decide in Python. As long as it is the same, a step is the same operations on the same
        tensors; it may change between two epochs.
        """
        return tuple(network.decided() for network in self.networks())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss, a mean over this worker's images of a batch; the model is in training mode."""
        raise NotImplementedError

    def epoch_sums(self) -> dict[str, Tensor]:
        """What `loss` adds up over an epoch's images: the tensors themselves. They are summed over the workers before
        `end_epoch`, and kept in a checkpoint that is made in mid-epoch.
        """
        return {}

    def begin_epoch(self, epoch: int) -> None:
        """Called before an epoch (from 0), also when training resumes there."""

    def extra_parameters(self) -> dict[str, tuple[Tensor, float]]:
        """Leaf tensors to train beside the model's parameters, each with its share of the recipe's learning rate; not decayed."""
        return {}

    def between_steps(self, made: int, workers: Workers) -> None:
        """Called after every step, outside of what a GPU repeats; must not change what `decided` says. By all workers.

        Args:
            made: steps of the running epoch so far.
            workers: among whom each batch is shared out.
        """

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after every optimizer step."""

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Called after an epoch's evaluation; what it returns joins the epoch's figures."""
        return {}

    def eligible(self, epoch: int) -> bool:
        """Whether the model of this epoch may be chosen as the best."""
        return True

    def deployed(self) -> Network:
        """The network as it would be deployed if training ended now; asked for where a stage pauses."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beyond the model's that a checkpoint must keep."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take `extra_state` back."""
