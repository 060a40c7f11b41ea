"""Selective network linearization (SNL, ICML 2022, arXiv 2202.02340): masks by an L1 penalty on a real α per position.

Owns the search. Layers get what the search leaves them: no sensitivity and no layer-wise budget. Contract: from the epoch after
the search on, the masks are binary and frozen and hold the budget; only those epochs may be chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raysp.keys import Config
from raysp.losses import distillation_kl
from raysp.methods.positions import Granularity, network_masks
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.training import Task

STALLED = 0.002
"""The count has stopped falling when an epoch takes less than this share of all positions away."""


@dataclass(frozen=True, kw_only=True)
class SnlConfig(Config):
    """What the search depends on. The defaults are SNL's.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    alpha_share: float = 1.0
    """Learning rate of α, as a multiple of the weights', above 0. Adam moves α by about its rate in a step, and α must come from
    1 to 0: short searches need more than the weights' rate."""
    penalty: float = 1e-5
    """λ, the first weight of ‖α‖₁, above 0."""
    growth: float = 1.1
    """What λ is multiplied by after an epoch in which the count has stopped falling, at least 1."""
    threshold: float = 1e-2
    """A position counts as a ReLU while its α is above this, in (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha_share > 0 and self.penalty > 0 and self.growth >= 1 and 0 < self.threshold < 1):
            raise ValueError(
                f"alpha_share {self.alpha_share:g}, penalty {self.penalty:g}, growth {self.growth:g}, threshold "
                f"{self.threshold:g}; expected above 0, above 0, at least 1, and between 0 and 1"
            )


class SnlTask(Task):
    """CE + KL + λ‖α‖₁ until the count is under the budget, then CE + KL with the mask frozen.

    Where SNL would go on for as long as it takes, this search ends after a fixed number of epochs at the latest, and then keeps
    the largest α. It keeps the largest in any case, so that the budget is met exactly.

    Args:
        student: all its ReLUs are kept at first.
        teacher: frozen, on the same device.
        config: the search.
        budget: ReLUs to keep over the network.
        granularity: α per position or per channel.
        rho: distillation temperature, above 0.
        max_epochs: epochs of the search at most, at least 1.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        config: SnlConfig,
        *,
        budget: int,
        granularity: Granularity,
        rho: float,
        max_epochs: int,
    ) -> None:
        super().__init__(student)
        self._teacher = teacher.eval().requires_grad_(False)
        self._config, self._budget, self._rho, self._max_epochs = config, budget, rho, max_epochs
        self._layers = student.relu_layers()
        self._alphas: dict[str, Tensor] = {}
        for layer in self._layers:
            shape = layer.relu.shape if granularity == "pixel" else (layer.relu.shape[0], 1, 1)
            self._alphas[layer.name] = torch.ones(shape, device=layer.relu.mask.device, requires_grad=True)
        # Beside α, all that the search remembers: whether it goes on, λ, and the last epoch's count.
        self._state = torch.tensor([1.0, config.penalty, float(student.num_relus())], dtype=torch.float64)
        self._attach()

    @property
    def searching(self) -> bool:
        """Whether α is still real."""
        return bool(self._state[0])

    def extra_parameters(self) -> dict[str, tuple[Tensor, float]]:
        """The α of every layer."""
        return {f"alpha.{name}": (alpha, self._config.alpha_share) for name, alpha in self._alphas.items()}

    def eligible(self, epoch: int) -> bool:
        """Only epochs with a binary mask can be chosen."""
        return not self.searching

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """CE + KL, and λ‖α‖₁ during the search."""
        with torch.no_grad():
            teacher_nk = self._teacher(images).logits[FINAL]
        student_nk = self.model(images).logits[FINAL]
        loss = F.cross_entropy(student_nk, labels) + distillation_kl(student_nk, teacher_nk, self._rho)
        if self.searching:
            sizes = torch.stack([self._units(name) * alpha.abs().sum() for name, alpha in self._alphas.items()])
            loss = loss + float(self._state[1]) * sizes.sum()
        return loss

    @torch.no_grad()
    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Count; then end the search, or let λ grow where the count has stopped falling."""
        if not self.searching:
            return {"mask_changed": 0.0}
        counts = {name: int((alpha > self._config.threshold).sum()) * self._units(name) for name, alpha in self._alphas.items()}
        count, penalty = sum(counts.values()), float(self._state[1])
        if count <= self._budget or epoch + 1 >= self._max_epochs:
            self._state[0] = 0.0
            shapes = [layer.relu.shape for layer in self._layers]
            masks = network_masks(list(self._alphas.values()), shapes, self._budget)
            for layer, mask in zip(self._layers, masks, strict=True):
                layer.relu.set_mask(mask)
            self._attach()
        elif float(self._state[2]) - count < STALLED * sum(layer.relu.size for layer in self._layers):
            self._state[1] = penalty * self._config.growth
        self._state[2] = float(count)
        return {"snl_count": count, "snl_penalty": penalty}

    def extra_state(self) -> dict[str, Tensor]:
        """α, and where the search stands."""
        return {f"alpha.{name}": alpha.detach() for name, alpha in self._alphas.items()} | {"search": self._state}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self._state.copy_(state["search"])
        with torch.no_grad():
            for name, alpha in self._alphas.items():
                alpha.copy_(state[f"alpha.{name}"])
        self._attach()

    def _attach(self) -> None:
        for layer in self._layers:
            layer.relu.alpha = self._alphas[layer.name] if self.searching else None

    def _units(self, name: str) -> int:
        """Positions that one α of a layer stands for."""
        relu = next(layer.relu for layer in self._layers if layer.name == name)
        return relu.size // self._alphas[name].numel()
