"""Stage 2: which ReLUs stay. A student with the layer-wise budget learns its mask beside its weights.

Owns the mask's start, its score and its updates (SENet, arXiv 2301.09254, stage 2). Refuses to share the budget out
(`raysp.budget`). Contract: the masks hold exactly the budget's number of ones at every moment.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysp.batches import Batches
from raysp.budget import allocate_budget
from raysp.context import Context
from raysp.keys import Config
from raysp.losses import distillation_kl
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.schedules import Recipe
from raysp.stage import Stage, StageResult
from raysp.stages.experiment import Experiment
from raysp.training import Task, train


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Config):
    """What a mask depends on, besides its parents.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    experiment: Experiment
    """Data, network, seed."""
    recipe: Recipe
    """How the student trains."""
    budget: int
    """ReLUs to keep over the whole network, at least 1."""
    method: Literal["senet"] = "senet"
    """How positions are scored: `senet` sums |Ψ_AR − Ψ_PR| over an epoch."""
    start: Literal["teacher", "scratch"] = "teacher"
    """The student's first weights."""
    frozen_share: float = 0.0
    """Share of the epochs, at the end, in which the mask no longer changes, in [0, 1]; the last epoch never changes it."""
    kl_weight: float = 0.5
    """Weight of the distillation term, in [0, 1]; cross-entropy has the rest."""
    rho: float = 4.0
    """Distillation temperature, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 1:
            raise ValueError(f"budget is {self.budget}; expected at least 1 ReLU")
        if not (0 <= self.frozen_share <= 1 and 0 <= self.kl_weight <= 1):
            raise ValueError(f"frozen_share {self.frozen_share:g}, kl_weight {self.kl_weight:g}; expected shares from 0 to 1")
        if self.rho <= 0:
            raise ValueError(f"rho is {self.rho:g}; expected a temperature above 0")


def mask_stage(config: MaskConfig, *, baseline: Stage, sensitivity: Stage) -> Stage:
    """The stage that learns one budget's mask."""
    parents = {"baseline": baseline, "sensitivity": sensitivity}
    note = f"budget {config.budget}, seed {config.experiment.seed}"
    return Stage(name="mask", version=1, config=config, run=run, epochs=config.recipe.epochs, parents=parents, note=note)


def run(config: MaskConfig, context: Context) -> StageResult:
    """Train the student and its mask; keep the weights and mask of the epoch that is best on the validation part."""
    experiment = config.experiment
    batches = Batches(experiment.data, context.splits(experiment.data), context.device)
    ar_state = context.parents["baseline"].tensors()
    teacher = experiment.build("baseline").to(context.device)
    teacher.load_state_dict(ar_state)
    student = experiment.build("mask")
    if config.start == "teacher":
        student.load_state_dict(ar_state)
    layers = context.parents["sensitivity"].record["metrics"]["layers"]
    sensitivity = {layer["layer"]: layer["eta_alpha"] for layer in layers}
    relus = student.relu_layers()
    counts = allocate_budget([sensitivity[layer.name] for layer in relus], [layer.relu.size for layer in relus], config.budget)
    for layer, count in zip(relus, counts, strict=True):
        layer.relu.set_mask(top_positions(torch.rand(layer.relu.shape), count))
    task = MaskTask(student.to(context.device), teacher, config)
    trained = train(task, config.recipe, experiment.seed, batches, context)
    context.save_weights(trained.best_state)
    allocation = [
        {"layer": layer.name, "kept": count, "size": layer.relu.size} for layer, count in zip(relus, counts, strict=True)
    ]
    metrics = {
        "best_epoch": trained.best_epoch,
        "val_accuracy": trained.val_accuracy[FINAL],
        "layers": allocation,
    }
    return StageResult(metrics=metrics, history=trained.history)


def top_positions(score: Tensor, count: int) -> Tensor:
    """A mask with exactly `count` ones at the highest scores; among equals the earlier position. Bool, the score's shape."""
    order = torch.sort(score.reshape(-1), descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:count]] = True
    return mask.view_as(score)


class MaskTask(Task):
    """Distillation from the AR teacher, while the student's masks follow the score.

    Args:
        student: its masks hold the layers' counts already.
        teacher: frozen, on the same device.
        config: loss weights and the share of epochs with a frozen mask.
    """

    def __init__(self, student: Network, teacher: Network, config: MaskConfig) -> None:
        super().__init__(student)
        self._config = config
        self._teacher = teacher.eval().requires_grad_(False)
        self._pairs = [(s.relu, t.relu) for s, t in zip(student.relu_layers(), teacher.relu_layers(), strict=True)]
        self._maps: dict[nn.Module, Tensor] = {}
        for relu in (relu for pair in self._pairs for relu in pair):
            relu.register_forward_hook(self._keep_map)
        self._scores: list[Tensor] = []
        num_frozen = max(1, round(config.frozen_share * config.recipe.epochs))
        self._update_until = config.recipe.epochs - num_frozen

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's score at 0."""
        self._updating = epoch < self._update_until
        self._scores = [torch.zeros(s.shape, device=s.mask.device) for s, _ in self._pairs]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """(1 − w)·CE + w·KL, and the score of the batch."""
        with torch.no_grad():
            teacher_nk = self._teacher(images).logits[FINAL]
        student_nk = self.model(images).logits[FINAL]
        if self._updating:
            for score, (student, teacher) in zip(self._scores, self._pairs, strict=True):
                score += (self._maps[teacher] - self._maps[student]).abs().sum(dim=0)
        self._maps.clear()
        weight = self._config.kl_weight
        distilled = distillation_kl(student_nk, teacher_nk, self._config.rho)
        return (1.0 - weight) * F.cross_entropy(student_nk, labels) + weight * distilled

    def end_epoch(self, epoch: int, optimizer: torch.optim.SGD) -> dict[str, Any]:
        """Replace each mask by the top positions of its score; report the share of kept positions that are new."""
        if not self._updating:
            return {"mask_changed": 0.0}
        changed = 0
        for score, (student, _) in zip(self._scores, self._pairs, strict=True):
            mask = top_positions(score, student.kept)
            changed += int((mask & ~student.mask).sum())
            student.set_mask(mask)
        return {"mask_changed": changed / self._config.budget}

    def _keep_map(self, relu: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.model.training and self._updating:  # evaluation needs no maps
            self._maps[relu] = output.detach()
