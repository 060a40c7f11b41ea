"""What changes over epochs: the learning rate and the gate γ."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from raysp.store.keys import Config, added

MAX_EPOCHS = 1_000_000

GammaSchedule = Literal["linear", "cosine"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """How one stage trains: optimizer and learning rate over the epochs. The defaults are the paper's for the baseline.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    epochs: int = 240
    """Passes over the training part, from 1 to a million."""
    batch_size: int = 128
    """Images per step over all workers, at least 2."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """`sgd` has momentum; `adam` has its usual two moments."""
    lr: float = 0.05
    """Learning rate of the first epoch, above 0."""
    decay: Literal["steps", "cosine"] = "steps"
    """`steps` multiplies the rate by `factor` at each milestone; `cosine` takes it to 0 after the last epoch."""
    milestones: tuple[int, ...] = (150, 180, 210)
    """Epochs (from 0) at which the rate drops, rising; only for `steps`."""
    factor: float = 0.1
    """What the rate is multiplied by at a milestone, in (0, 1]."""
    momentum: float = 0.9
    """SGD momentum, in [0, 1); unused by Adam."""
    weight_decay: float = 5e-4
    """L2 penalty on all weights, at least 0."""
    precision: Precision = "fp32"
    """What a step's maps are computed in. `bf16` is autocast: weights, optimizer, running statistics, logits and losses stay in
    float32, and so does every evaluation, because the saved weights are what is deployed."""
    max_gradient: float | None = added(None)
    """L2 norm of the gradient of all weights at most, above 0: a longer one is shortened to it. None leaves it as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = list(self.milestones) == sorted(self.milestones) and min(self.milestones, default=0) >= 0
        self.expect(
            epochs=(1 <= self.epochs <= MAX_EPOCHS, f"1 to {MAX_EPOCHS}"),
            batch_size=(self.batch_size >= 2, "at least 2"),
            lr=(self.lr > 0, "above 0"),
            factor=(0 < self.factor <= 1, "in (0, 1]"),
            momentum=(0 <= self.momentum < 1, "in [0, 1)"),
            weight_decay=(self.weight_decay >= 0, "at least 0"),
            max_gradient=(self.max_gradient is None or self.max_gradient > 0, "above 0, or none"),
            milestones=(rising, "rising epochs"),
        )

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if self.decay == "cosine":
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))
        return self.lr * self.factor ** sum(epoch >= m for m in self.milestones)

    def scaled(self, scale: float) -> "Recipe":
        """The recipe with its epochs, and the milestones with them, multiplied by `scale` (above 0) and rounded."""
        if not 0 < scale <= MAX_EPOCHS / self.epochs:
            raise ValueError(f"epochs scale {scale:g}; expected a number above 0 that gives at most {MAX_EPOCHS} epochs")
        if scale == 1.0:
            return self
        milestones = tuple(round(m * scale) for m in self.milestones)
        return dataclasses.replace(self, epochs=max(1, round(self.epochs * scale)), milestones=milestones)


def gamma_at(epoch: int, gate_epochs: int, schedule: GammaSchedule) -> float:
    """γ of an epoch: i/N (linear) or (1 − cos(π·i/N))/2 (cosine) for i < N, then 1.

    Args:
        epoch: i, from 0.
        gate_epochs: N, the epoch from which the shallow branch stands alone; 0 starts with it.
        schedule: "linear" or "cosine".

    Returns:
        γ ∈ [0, 1]. ("Making Models Shallow Again", section 4 and 5.1.)
    """
    if epoch >= gate_epochs:
        return 1.0
    ratio = epoch / gate_epochs
    return ratio if schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * ratio))
