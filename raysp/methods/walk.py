"""A walk from all ReLUs down to few, by what each is worth to the loss; what it leaves is a ranking of all of them.

A position's worth is the first-order change of the loss if its ReLU became the identity: g·(x − relu(x)) = g·min(x, 0), with the
gradient g at the layer's output and its input x, taken without its sign and averaged over images. For a position that is the
identity already the same product says what its ReLU would change, so that all positions of the network compare, and a dropped one
may come back. (The score of "counterfactual" times |g|; ReLUPruner scores by |g·ψ(x)| times the share of negative inputs.)

Owns the score and the course of the count. Refuses to choose what is kept for a budget (`raysp.methods.ranking`).
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from raysp.engine.workers import Workers
from raysp.methods.choices import Granularity
from raysp.methods.depth import priced
from raysp.methods.distillation import StudentTask
from raysp.methods.positions import network_masks
from raysp.methods.ranking import rank_units
from raysp.models.network import Network


class WalkTask(StudentTask):
    """Distillation, while the count of ReLUs falls round by round as half a cosine, each time by one choice over all layers.

    Args:
        student: all its ReLUs are kept at first.
        teacher: frozen, on the same device.
        kl_weight: of the distillation term, in [0, 1]; cross-entropy has the rest.
        rho: distillation temperature, above 0.
        granularity: what goes as one. Channels compare by what their positions are worth on average.
        floor: ReLUs at which the walk ends, at least 1.
        rounds: how often a new mask is chosen, at least 1.
        carry: share of the score so far that counts beside the score of a round, in [0, 1).
        steps_per_epoch: of the training.
        falling_epochs: in which the count falls, at least 1; in those that follow the mask stays.
        epochs: of the training.
        trains: whether weights are trained. If not, they are frozen here, and only the masks change.
        every: one of so many images of a batch is scored, at least 1: a score costs a third of a step.
        depth_price: of layers inside blocks that can be gated, see `raysp.methods.depth.priced`; 0 looks at ReLUs alone.
        layer_price: likewise of all layers.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        *,
        kl_weight: float,
        rho: float,
        granularity: Granularity,
        floor: int,
        rounds: int,
        carry: float,
        steps_per_epoch: int,
        falling_epochs: int,
        epochs: int,
        trains: bool,
        every: int = 1,
        depth_price: float = 0.0,
        layer_price: float = 0.0,
    ) -> None:
        super().__init__(student, teacher, kl_weight=kl_weight, rho=rho)
        self._layers = student.relu_layers()
        self._shapes = [layer.relu.shape for layer in self._layers]
        self._channels, self._num_relus = granularity == "channel", student.num_relus()
        self._floor, self._rounds, self._carry = min(floor, self._num_relus), rounds, carry
        self._steps_per_epoch, self._falling_epochs, self._epochs = steps_per_epoch, falling_epochs, epochs
        self._trains, self._every = trains, every
        self._prices = {"depth_price": depth_price, "layer_price": layer_price}
        gateable = {block.inner_relu for _, block in student.gated_blocks()}
        self._inner = [layer.relu in gateable for layer in self._layers]
        if not trains:
            student.requires_grad_(False)
        device = self._layers[0].relu.mask.device
        self._fresh = [_like_maps(shape, device) for shape in self._shapes]
        """The score of a step, of this worker alone."""
        self._pending = [torch.zeros_like(fresh) for fresh in self._fresh]
        """This worker's part of the score since the last round or the last epoch's end."""
        units = [(shape[0], 1, 1) if self._channels else shape for shape in self._shapes]
        self._unit_sizes = [shape[1] * shape[2] if self._channels else 1 for shape in self._shapes]
        self._score = [torch.zeros(shape, device=device) for shape in units]
        self._left = [torch.zeros(shape, dtype=torch.int32, device=device) for shape in units]
        """The round in which each unit left for the last time; 0 while it is kept."""
        self._worth = [torch.zeros(shape, device=device) for shape in units]
        """What it was worth then."""
        self._epoch = self._round = 0

    @property
    def walking(self) -> bool:
        """Whether the count is still to fall in this epoch."""
        return self._epoch < self._falling_epochs

    def decided(self) -> Hashable:
        """See `Task`: also whether a score is summed, and whether weights change."""
        return super().decided(), self.walking, self._trains

    def begin_epoch(self, epoch: int) -> None:
        """Sum scores as long as the count falls."""
        self._epoch = epoch
        for layer, fresh in zip(self._layers, self._fresh, strict=True):
            layer.relu.score = fresh if self.walking else None

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """(1 − w)·CE + w·KL."""
        if not self._trains:
            images = images.detach().requires_grad_()  # else no gradient would reach the maps
        for layer in self._layers:  # the same images however many workers share the batch
            layer.relu.scored = slice(-self.first_image % self._every, None, self._every)
        return super().loss(images, labels)

    def between_steps(self, made: int, workers: Workers) -> None:
        """Choose new masks where a round ends, and let the count fall."""
        if not self.walking:
            return
        # Each worker's gradients are so weighted that their mean is the whole batch's.
        torch._foreach_add_(self._pending, self._fresh, alpha=1.0 / workers.size)
        torch._foreach_zero_(self._fresh)
        steps, now = self._falling_epochs * self._steps_per_epoch, self._epoch * self._steps_per_epoch + made
        ended = now * self._rounds // steps
        if ended > self._round or made == self._steps_per_epoch:
            self._add_up(workers)
        if ended > self._round:
            self._round = ended
            self._choose()

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Report the count."""
        return {"relus": sum(layer.relu.kept for layer in self._layers)}

    def eligible(self, epoch: int) -> bool:
        """Epochs with the last mask throughout; of a walk that falls to its end, the last one."""
        return epoch >= min(self._falling_epochs, self._epochs - 1)

    def ranks(self) -> list[Tensor]:
        """The ranking, once all is walked; see `raysp.methods.ranking.rank_units`."""
        worth = [torch.where(left == 0, now, then) for left, now, then in zip(self._left, self._score, self._worth, strict=True)]
        return rank_units(self._left, worth)

    def epoch_sums(self) -> dict[str, Tensor]:
        """The score since the last round; at an epoch's end it has been added up, and is 0."""
        return {f"pending.{layer.name}": pending for layer, pending in zip(self._layers, self._pending, strict=True)}

    def extra_state(self) -> dict[str, Tensor]:
        """Scores, who left when, and the round."""
        state = {"round": torch.tensor(self._round)}
        for name, tensors in (("score", self._score), ("left", self._left), ("worth", self._worth)):
            state |= {f"{name}.{layer.name}": tensor for layer, tensor in zip(self._layers, tensors, strict=True)}
        return state

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self._round = int(state["round"])
        for name, tensors in (("score", self._score), ("left", self._left), ("worth", self._worth)):
            for layer, tensor in zip(self._layers, tensors, strict=True):
                tensor.copy_(state[f"{name}.{layer.name}"])

    @torch.no_grad()
    def _add_up(self, workers: Workers) -> None:
        """Bring the pending parts of all workers into the score, where all have the same."""
        workers.sum_(*self._pending)
        for score, pending in zip(self._score, self._pending, strict=True):
            score += pending.mean(dim=(1, 2), keepdim=True) if self._channels else pending
            pending.zero_()

    @torch.no_grad()
    def _choose(self) -> None:
        fallen = 0.5 * (1.0 + math.cos(math.pi * self._round / self._rounds))
        count = self._floor + round(fallen * (self._num_relus - self._floor))
        scores = priced(self._score, self._unit_sizes, self._inner, count, **self._prices)
        masks = network_masks(scores, self._shapes, count)
        for layer, mask, score, left, worth in zip(self._layers, masks, self._score, self._left, self._worth, strict=True):
            layer.relu.set_mask(mask)
            kept = mask[:, :1, :1] if self._channels else mask
            leaves = ~kept & (left == 0)
            left[leaves] = self._round
            left[kept] = 0
            worth[leaves] = score[leaves]
            score *= self._carry


def _like_maps(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Zeros (c, h, w), channels innermost as in the maps that are added to them."""
    channels, height, width = shape
    return torch.zeros(height, width, channels, device=device).permute(2, 0, 1)
