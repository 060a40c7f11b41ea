"""Stage 1: the ReLU sensitivity of every layer, from a sparse twin of the network.

Owns sparse training: magnitude pruning and momentum regrowth at a fixed number of non-zero weights (dynamic network rewiring, the
pruning that SENet, arXiv 2301.09254, builds on). A layer that keeps many of its weights is sensitive to pruning, and the ReLU
layer behind it is not: η_α = 1 − η_θ (equation 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raysp.engine.context import Context
from raysp.methods.budget import allocate_budget
from raysp.models.network import Network
from raysp.stages.baseline import CrossEntropyTask
from raysp.stages.experiment import Experiment
from raysp.store.keys import Config
from raysp.store.stage import Stage, StageResult
from raysp.training.batches import Batches
from raysp.training.loop import train
from raysp.training.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig(Config):
    """What a sensitivity depends on.

    Raises:
        ValueError: a share is out of the range that its docstring gives, or the recipe has no momentum.
    """

    experiment: Experiment
    """Data, network, seed."""
    recipe: Recipe
    """How the sparse twin trains."""
    density: float = 0.1
    """Share of all convolution weights that are non-zero, in (0, 1)."""
    prune_rate: float = 0.5
    """Share of a layer's weights pruned and regrown, in (0, 1); falls to 0 over the epochs as half a cosine."""
    max_density: float = 0.93
    """Share of a layer's weights that may be non-zero, in [density, 1). Small early layers would otherwise fill up entirely, so
    that their ReLU layers had sensitivity 0 and got no ReLU at any budget. (Ours: SENet doesn't say; with about this value the
    counts that merged blocks lose are those of the paper's Table 1.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(
            density=(0 < self.density < 1, "a share above 0 and below 1"),
            prune_rate=(0 < self.prune_rate < 1, "a share above 0 and below 1"),
            max_density=(self.density <= self.max_density < 1, f"at least the density, {self.density:g}, and below 1"),
        )
        if self.recipe.optimizer != "sgd" or self.recipe.momentum == 0:
            raise ValueError(
                f"{self.recipe.optimizer} with momentum {self.recipe.momentum:g}; expected sgd with some, because momentum "
                "decides which weights regrow"
            )


def in_forward_order(given: Sequence[float] | Mapping[str, float], network: Network) -> tuple[float, ...]:
    """A user's own η_α for every ReLU layer of a network, in forward order.

    Args:
        given: in that order, or by the layer's name.
        network: on any device, "meta" too.

    Raises:
        ValueError: they don't fit the network.
    """
    names = [layer.name for layer in network.relu_layers()]
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        unknown = [f"{name!r:.60}" for name in given if name not in names]
        if missing or unknown:
            wrong = [f"{what} {', '.join(some)}" for what, some in (("missing", missing), ("unknown", unknown[:5])) if some]
            raise ValueError(
                f"sensitivities: {'; '.join(wrong)}; expected one for each ReLU layer of {network.name}, "
                f"{names[0]} to {names[-1]}"
            )
        given = [given[name] for name in names]
    if len(given) != len(names):
        raise ValueError(
            f"{len(given)} sensitivities; expected {len(names)}, one for each ReLU layer of {network.name}: {', '.join(names)}"
        )
    return tuple(given)


def sensitivity_stage(config: SensitivityConfig) -> Stage:
    """The stage that measures sensitivities; the twin trains from scratch, so it has no parents."""
    note = f"density {config.density:g}, seed {config.experiment.seed}"
    return Stage(name="sensitivity", version=2, config=config, run=run, epochs=config.recipe.epochs, note=note)


def run(config: SensitivityConfig, context: Context) -> StageResult:
    """Train the sparse twin and report η_θ and η_α of every ReLU layer at the last epoch."""
    experiment = config.experiment
    batches = Batches(experiment.data, context.splits(experiment.data), context.device)
    model = experiment.build("sensitivity").to(context.device)
    task = SparseTask(model, config)
    trained = train(task, config.recipe, experiment.seed, batches, context)
    experiment.save(model, context)
    layers = []
    for layer in model.relu_layers():
        eta_theta = float((layer.conv.weight != 0).float().mean())
        layers.append({"layer": layer.name, "eta_theta": eta_theta, "eta_alpha": 1.0 - eta_theta, "size": layer.relu.size})
    return StageResult(metrics={"layers": layers}, history=trained.history)


class SparseTask(CrossEntropyTask):
    """Classification with a fixed number of non-zero convolution weights that may move between layers.

    Args:
        model: its convolutions are made sparse at random, each to the density; norms and classifier stay dense.
        config: density, prune rate, epochs.
    """

    def __init__(self, model: Network, config: SensitivityConfig) -> None:
        super().__init__(model)
        self._config = config
        self._weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        self.alive = {}
        for name, weight in self._weights.items():
            num_alive = max(1, round(config.density * weight.numel()))
            chosen = torch.randperm(weight.numel())[:num_alive].to(weight.device)
            self.alive[name] = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device).index_fill_(0, chosen, True)
        self._zero_dead()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put dead weights back to zero; their gradients still feed the momentum that decides what regrows."""
        self._zero_dead()

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Prune the smallest weights of each layer, and regrow as many in all where the momentum is largest."""
        rate = self._config.prune_rate * 0.5 * (1.0 + math.cos(math.pi * (epoch + 1) / self._config.recipe.epochs))
        momentum = {name: optimizer.state[w]["momentum_buffer"].detach().reshape(-1).abs() for name, w in self._weights.items()}
        # How much a layer's living weights still want to move says how much of what was pruned it gets.
        pull = [float(momentum[name][self.alive[name]].double().mean()) for name in self._weights]
        pruned = []
        for name, weight in self._weights.items():
            alive = self.alive[name]
            cut = min(round(rate * int(alive.sum())), int(alive.sum()) - 1)
            magnitude = weight.detach().reshape(-1).abs().masked_fill(~alive, math.inf)
            alive[torch.sort(magnitude, stable=True).indices[:cut]] = False
            pruned.append(cut)
        most = self._config.max_density
        room = [max(int(most * alive.numel()) - int(alive.sum()), 0) for alive in self.alive.values()]
        if sum(room) < sum(pruned):
            # The density is next to the largest: the start rounds up, the room down. A layer may keep as many weights as it had.
            room = [max(some, cut) for some, cut in zip(room, pruned, strict=True)]
        for (name, alive), count in zip(self.alive.items(), allocate_budget(pull, room, sum(pruned)), strict=True):
            want = momentum[name].masked_fill(alive, -1.0)
            alive[torch.sort(want, descending=True, stable=True).indices[:count]] = True
        self._zero_dead()
        return {"rewired": sum(pruned)}

    def extra_state(self) -> dict[str, Tensor]:
        """Which weights live."""
        return self.alive

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the living weights back."""
        for name, alive in state.items():
            self.alive[name].copy_(alive)

    @torch.no_grad()
    def _zero_dead(self) -> None:
        for name, weight in self._weights.items():
            weight.mul_(self.alive[name].view_as(weight))
