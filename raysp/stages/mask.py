"""Stage 2: which ReLUs stay. A student within the budget learns its mask beside its weights.

Owns the layers' counts and the choice of method (`raysp.methods`). Refuses to share the budget out (`raysp.methods.budget`).
Contract: the masks hold the budget's number of ones, exactly by the pixel and to within one channel per layer by the channel.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from raysp.engine.context import Context
from raysp.methods.budget import allocate_budget, whole_channels
from raysp.methods.choices import Granularity, MaskStart, OwnMaskMethod, SnlConfig
from raysp.methods.distillation import StudentTask
from raysp.methods.positions import layer_mask
from raysp.methods.scores import ScoreTask
from raysp.methods.snl import SnlTask
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.stages.experiment import Experiment
from raysp.store.keys import Config, key_of
from raysp.store.stage import Stage, StageResult
from raysp.training.batches import Batches
from raysp.training.loop import accuracy, train
from raysp.training.recipes import Recipe
from raysp.training.task import Task


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
    method: OwnMaskMethod = "senet"
    """`senet` and `counterfactual` score positions within each layer's count (`raysp.methods.scores`), `random` keeps the mask
    that they start from, `snl` searches with real α over the whole network (`raysp.methods.snl`)."""
    granularity: Granularity = "pixel"
    """What is kept or dropped as one."""
    sensitivity: tuple[float, ...] | None = None
    """A user's own η_α per ReLU layer, at least 0; None takes the sensitivity stage's."""
    snl: SnlConfig | None = None
    """The search; for method `snl` alone."""
    start: MaskStart = "teacher"
    """The student's first weights."""
    frozen_share: float = 0.0
    """Share of the epochs, at the end, in which the mask no longer changes, in [0, 1]; the last epoch never changes it."""
    kl_weight: float = 0.5
    """Weight of the distillation term, in [0, 1]; cross-entropy has the rest. SNL weighs both 1."""
    rho: float = 4.0
    """Distillation temperature, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = self.sensitivity is None or min(self.sensitivity, default=-1.0) >= 0
        self.expect(
            budget=(self.budget >= 1, "at least 1 ReLU"),
            frozen_share=(0 <= self.frozen_share <= 1, "a share from 0 to 1"),
            kl_weight=(0 <= self.kl_weight <= 1, "a share from 0 to 1"),
            rho=(self.rho > 0, "a temperature above 0"),
            sensitivity=(positive, "a number of at least 0 for every ReLU layer"),
        )
        if (self.method == "snl") != (self.snl is not None):
            raise ValueError(f"method {self.method} with snl {self.snl}; expected a search for method snl, and for no other")
        if self.snl and self.recipe.epochs < 2:
            raise ValueError("snl with 1 epoch; expected 2 or more: some to search, and one with the mask frozen")
        if self.snl and self.sensitivity is not None:
            raise ValueError("snl with sensitivities; expected none: its search shares the budget out by itself")

    @property
    def updated_epochs(self) -> int:
        """Epochs, from the first, after which the mask may change."""
        return self.recipe.epochs - max(1, round(self.frozen_share * self.recipe.epochs))


def mask_stage(config: MaskConfig, *, baseline: Stage, sensitivity: Stage | None) -> Stage:
    """The stage that learns one budget's mask.

    Args:
        config: what it depends on.
        baseline: the AR teacher.
        sensitivity: the layers' sensitivities; None where the method needs none or the configuration brings its own.
    """
    parents = {"baseline": baseline} | ({"sensitivity": sensitivity} if sensitivity else {})
    said = [str(config.budget), config.method + (" by channel" if config.granularity == "channel" else "")]
    if config.start != "teacher":
        said.append(f"from {config.start}")
    if config.sensitivity is not None:
        said.append(f"sensitivities {key_of(config.sensitivity)[:8]}")
    said.append(f"seed {config.experiment.seed}" if sensitivity is None else sensitivity.note)
    return Stage(
        name="mask", version=2, config=config, run=run, epochs=config.recipe.epochs, parents=parents, note=", ".join(said)
    )


def run(config: MaskConfig, context: Context) -> StageResult:
    """Train the student and its mask; keep the weights and mask of the epoch that is best on the validation part."""
    experiment = config.experiment
    batches = Batches(experiment.data, context.splits(experiment.data), context.device)
    ar_state = context.parents["baseline"].tensors()
    teacher = experiment.teacher(ar_state, context.device)
    student = experiment.build("mask")
    if config.start == "teacher":
        student.load_state_dict(ar_state)
    sensitivity = None if config.snl else _sensitivity(config, context)
    if sensitivity is not None:
        for layer, count in zip(student.relu_layers(), _counts(config, sensitivity, student), strict=True):
            layer.relu.set_mask(layer_mask(torch.rand(layer.relu.shape), count, config.granularity))
    task = _task(config, student.to(context.device), teacher)
    trained = train(task, config.recipe, experiment.seed, batches, context)
    student.load_state_dict(trained.best_state)
    experiment.save(student, context)
    layers = student.relu_layers()
    table: list[dict[str, Any]] = [{"layer": l.name, "kept": l.relu.kept, "size": l.relu.size} for l in layers]
    for index, line in enumerate(table):
        line["eta_alpha"] = sensitivity[index] if sensitivity else None
    metrics = {
        "best_epoch": trained.best_epoch,
        "val_accuracy": trained.val_accuracy[FINAL],
        "test_accuracy": accuracy(student, batches, "test", context.workers)[FINAL],
        "relus": sum(l.relu.kept for l in layers),
        # What SNL's search had come down to when it ended: above the budget where its epochs did not suffice.
        "snl_count": next((h["snl_count"] for h in reversed(trained.history) if "snl_count" in h), None),
        "sensitivity": _source(config, context),
        "layers": table,
    }
    return StageResult(metrics=metrics, history=trained.history)


def _sensitivity(config: MaskConfig, context: Context) -> list[float]:
    """η_α per ReLU layer, in forward order."""
    if config.sensitivity is not None:
        return list(config.sensitivity)
    return [layer["eta_alpha"] for layer in context.parents["sensitivity"].record["metrics"]["layers"]]


def _source(config: MaskConfig, context: Context) -> str | None:
    """Where the layers' counts came from, in a few words for results.csv; None where the method found them itself."""
    if config.snl:
        return None
    if config.sensitivity is not None:
        return f"given {key_of(config.sensitivity)[:8]}"
    return f"density {context.parents['sensitivity'].record['config']['density']:g}"


def _counts(config: MaskConfig, sensitivity: list[float], student: Network) -> list[int]:
    """ReLUs to keep per layer."""
    shapes = [layer.relu.shape for layer in student.relu_layers()]
    counts = allocate_budget(sensitivity, [math.prod(shape) for shape in shapes], config.budget)
    return whole_channels(counts, [h * w for _, h, w in shapes]) if config.granularity == "channel" else counts


def _task(config: MaskConfig, student: Network, teacher: Network) -> Task:
    if config.snl:
        return SnlTask(
            student,
            teacher,
            config.snl,
            budget=config.budget,
            granularity=config.granularity,
            rho=config.rho,
            max_epochs=config.updated_epochs,
        )
    if config.method == "random":
        return StudentTask(student, teacher, kl_weight=config.kl_weight, rho=config.rho)
    assert config.method != "snl"
    return ScoreTask(
        student,
        teacher,
        kl_weight=config.kl_weight,
        rho=config.rho,
        score=config.method,
        granularity=config.granularity,
        num_updates=config.updated_epochs,
    )
