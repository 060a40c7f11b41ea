"""Selective network linearization (SNL, ICML 2022, arXiv 2202.02340): masks by an L1 penalty on a real α per position.

Owns the search. Layers get what the search leaves them: no sensitivity and no layer-wise budget. Contract: from the epoch after
the search on, the masks are binary and frozen; only those epochs may be chosen.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from raysp.methods.choices import Granularity, SnlConfig
from raysp.methods.distillation import TaughtTask
from raysp.methods.positions import network_masks
from raysp.methods.ranking import rank_units
from raysp.models.network import Network


class SnlTask(TaughtTask):
    """CE + KL + λ‖α‖₁ until the count is under the budget, then CE + KL with the mask frozen.

    Where SNL goes on for as long as it takes, this search ends after a fixed number of epochs at the latest. Either way the
    largest α are kept, as many as the budget allows: exactly its number by the pixel, the whole channels that fit into it by the
    channel.

    Args:
        student: all its ReLUs are kept at first.
        teacher: frozen, on the same device.
        config: the search.
        budget: ReLUs to keep over the network.
        granularity: α per position or per channel.
        rho: distillation temperature, above 0.
        max_epochs: epochs of the search at most; the first is always one.
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
        super().__init__(student, teacher, rho)
        self._config, self._budget, self._max_epochs = config, budget, max_epochs
        self._layers = student.relu_layers()
        self._alphas: dict[str, Tensor] = {}
        self._units: dict[str, int] = {}
        """Positions that one α of a layer stands for."""
        for layer in self._layers:
            shape = layer.relu.shape if granularity == "pixel" else (layer.relu.shape[0], 1, 1)
            alpha = torch.ones(shape, device=layer.relu.mask.device, requires_grad=True)
            self._alphas[layer.name], self._units[layer.name] = alpha, layer.relu.size // alpha.numel()
        self._num_positions = student.num_relus()
        self.searching = True
        self._penalty, self._count = config.penalty, self._num_positions
        self._weight = torch.full((), self._penalty, device=self._layers[0].relu.mask.device)
        self._attach()

    def decided(self) -> Hashable:
        """See `Task`: also whether α is searched."""
        return super().decided(), self.searching

    def begin_epoch(self, epoch: int) -> None:
        """Let the loss know λ."""
        self._weight.fill_(self._penalty)

    def extra_parameters(self) -> dict[str, tuple[Tensor, float]]:
        """The α of every layer."""
        return {f"alpha.{name}": (alpha, self._config.alpha_share) for name, alpha in self._alphas.items()}

    def eligible(self, epoch: int) -> bool:
        """Only epochs with a binary mask can be chosen."""
        return not self.searching

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """CE + KL, and λ‖α‖₁ during the search."""
        entropy, distilled = self.terms(images, labels)
        if not self.searching:
            return entropy + distilled
        sizes = torch.stack([self._units[name] * alpha.abs().sum() for name, alpha in self._alphas.items()])
        return entropy + distilled + self._weight * sizes.sum()

    @torch.no_grad()
    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Count; then end the search, or let λ grow where the count has stopped falling."""
        if not self.searching:
            return {"mask_changed": 0.0}
        above = {name: int((alpha > self._config.threshold).sum()) * self._units[name] for name, alpha in self._alphas.items()}
        count = sum(above.values())
        figures = {"snl_count": count, "snl_penalty": self._penalty}
        if count <= self._budget or epoch + 1 >= self._max_epochs:
            self.searching = False
            shapes = [layer.relu.shape for layer in self._layers]
            for layer, mask in zip(self._layers, network_masks(list(self._alphas.values()), shapes, self._budget), strict=True):
                layer.relu.set_mask(mask)
            self._attach()
        elif self._count - count < self._config.stalled * self._num_positions:
            self._penalty *= self._config.growth
        self._count = count
        return figures

    def extra_state(self) -> dict[str, Tensor]:
        """α, and where the search stands."""
        search = torch.tensor([self.searching, self._penalty, self._count], dtype=torch.float64)
        return {f"alpha.{name}": alpha.detach() for name, alpha in self._alphas.items()} | {"standing": search}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        searching, self._penalty, count = state["standing"].tolist()
        self.searching, self._count = bool(searching), int(count)
        with torch.no_grad():
            for name, alpha in self._alphas.items():
                alpha.copy_(state[f"alpha.{name}"])
        self._attach()

    def _attach(self) -> None:
        for layer in self._layers:
            layer.relu.alpha = self._alphas[layer.name] if self.searching else None


class SnlWalkTask(SnlTask):
    """SNL's search down to few ReLUs as a walk past every budget: first those that it kept, then who held out longer, and higher
    (ours).

    Args:
        See `SnlTask`; the budget is where the walk ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._area = {name: torch.zeros_like(alpha, requires_grad=False) for name, alpha in self._alphas.items()}
        """Sum of each α, where it is above 0, over the steps of the search."""

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Add α up."""
        super().after_step(optimizer)
        if self.searching:
            for name, alpha in self._alphas.items():
                self._area[name] += alpha.clamp_min(0.0)

    def ranks(self) -> list[Tensor]:
        """The ranking, once all is searched; see `raysp.methods.ranking.rank_units`."""
        areas = list(self._area.values())
        # Those that the search kept in the end come first: the weights at its end belong to them.
        left = [
            ~layer.relu.mask if area.shape == layer.relu.shape else ~layer.relu.mask[:, :1, :1]
            for area, layer in zip(areas, self._layers, strict=True)
        ]
        return rank_units([gone.int() for gone in left], areas)

    def extra_state(self) -> dict[str, Tensor]:
        """The sums too."""
        return super().extra_state() | {f"area.{name}": area for name, area in self._area.items()}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        super().load_extra_state(state)
        for name, area in self._area.items():
            area.copy_(state[f"area.{name}"])
