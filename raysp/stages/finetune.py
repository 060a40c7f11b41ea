"""Stage 3: fine-tuning the student with its mask frozen, growing shallow blocks (GB) and teaching auxiliary classifiers (AKD).

Owns the choice of gated blocks, the gate's course and equation 2's loss ("Making Models Shallow Again", CVPR-W 2023, section 4).
Contract: the chosen epoch is one with all gates at 1, so that what is selected and tested is what would be deployed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raysp.engine.context import Context, Parent
from raysp.methods.choices import AcEnd, AcHead, AcStart, GateStart, Pram, Weights
from raysp.methods.distillation import TaughtTask
from raysp.methods.losses import PRAM_LOSSES, distillation_kl
from raysp.models.collapse import drop_main_branches
from raysp.models.costs import count_costs
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.stages.experiment import Experiment, exit_rows
from raysp.stages.gates import gated_by_loss, inner_densities, number_within
from raysp.stages.student import (
    grow_shallow_branches,
    measure_body,
    refit_heads,
    share_out_rest,
    start_branches,
    start_heads,
    start_student,
)
from raysp.stages.time_limit import TimeLimit, gated_in_time
from raysp.store.classes import BY_CLASS, by_class
from raysp.store.keys import Config, added
from raysp.store.stage import Stage, StageResult
from raysp.training.batches import Batches
from raysp.training.loop import accuracy, seed_torch, tally, train
from raysp.training.recipes import GammaSchedule, Recipe, gamma_at

MAX_BETA = 1e9
"""More is taken for a slip."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Config):
    """What a fine-tuning depends on, besides its parents. The defaults are the paper's.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    experiment: Experiment
    """Data, network, seed."""
    recipe: Recipe
    """How it trains."""
    d_th: float | None = 0.1
    """Blocks whose inner ReLU keeps at most this share of its positions are gated, in [0, 1]; None gates none."""
    gate_blocks: int | None = added(None)
    """Instead of a threshold: so many blocks are gated, at least 1, those that would lose least (ours)."""
    gate_loss: float | None = added(None)
    """Or: as many are gated, those that would lose least first, as would lose at most so many nats in all, at least 0 (ours)."""
    gamma: GammaSchedule = "linear"
    """How γ grows from 0 to 1."""
    gate_epochs: int = 90
    """Epochs until γ is 1, from 0 to one less than the recipe's."""
    gb_init: GateStart = "random"
    """How a shallow branch starts: with random weights, or as the least-squares fit of the main branch (ours)."""
    kernel_size: Literal[3, 5] = 3
    """Of the shallow branch's convolution."""
    ac_after: tuple[int, ...] = ()
    """Stages (from 1, rising) after which an auxiliary classifier is placed; all are trained together."""
    ac_head: AcHead = "pool"
    """What auxiliary classifiers are made of."""
    kl_weight: float = 0.9
    """λ of equation 2, in [0, 1]; cross-entropy has the rest."""
    beta: float = 1000.0
    """β of equation 2, from 0 to a billion."""
    rho: float = 4.0
    """ρ of equation 2, the distillation temperature, above 0."""
    pram: Pram = "attention"
    """Form of the PRAM loss; β = 1000 belongs to `attention`."""
    weights: Weights = added("continue")
    """Where the student starts: with the weights that its mask was found with, or with the all-ReLU network's."""
    budget: int | None = added(None)
    """ReLUs to keep, at least 1, where the mask comes from a ranking; None where a mask stage has kept its own."""
    ac_init: AcStart = added("random")
    """How an auxiliary classifier starts: with random weights, or fitted to the student as it is (ours)."""
    ac_end: AcEnd = added("trained")
    """Whether auxiliary classifiers stay as they were trained, or are fitted anew behind the body of the chosen epoch (ours)."""
    time_limit: TimeLimit | None = added(None)
    """Or: those blocks are gated that lose least and let the final exit meet this limit (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(
            d_th=(self.d_th is None or 0 <= self.d_th <= 1, "a share from 0 to 1, or none"),
            gate_blocks=(self.gate_blocks is None or self.gate_blocks >= 1, "at least 1"),
            gate_loss=(self.gate_loss is None or self.gate_loss >= 0, "at least 0 nats"),
        )
        if len(asked := self.which_gated()) > 1:
            said = " and ".join(
                f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in asked.items()
            )
            raise ValueError(f"{said}; expected one of them: each says which blocks are gated")
        check_gate_epochs(self.gate_epochs, self.recipe.epochs)
        self.expect(
            ac_after=(list(self.ac_after) == sorted(set(self.ac_after)), "rising stages, each once"),
            kl_weight=(0 <= self.kl_weight <= 1, "a share from 0 to 1"),
            beta=(0 <= self.beta <= MAX_BETA, f"0 to {MAX_BETA:g}"),
            rho=(self.rho > 0, "a temperature above 0"),
            budget=(self.budget is None or self.budget >= 1, "at least 1 ReLU"),
        )

    def which_gated(self) -> dict[str, Any]:
        """What says which blocks are gated, by the field; empty where nothing does."""
        names = ("d_th", "gate_blocks", "gate_loss", "time_limit")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def check_gate_epochs(gate_epochs: int, epochs: int) -> None:
    """Raise ValueError unless an epoch is left with all gates at 1."""
    if not 0 <= gate_epochs < epochs:
        raise ValueError(
            f"gate_epochs is {gate_epochs}; expected 0 to {epochs - 1}, so that an epoch is left with all gates at 1 (the recipe "
            f"has {epochs})"
        )


def without_gates(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration that gates no block, with the default for all that belongs to gates."""
    nothing: dict[str, Any] = dict.fromkeys(config.which_gated())
    return replace(config, gamma="linear", gate_epochs=0, gb_init="random", kernel_size=3, **nothing)


def canonical(config: FinetuneConfig, parents: Mapping[str, Parent]) -> FinetuneConfig:
    """Of all configurations that gate the same blocks, the one with their number, where those lose least; else the one with the
    lowest limit or threshold. Without gates, if it gates none.
    """
    if config.time_limit is not None:
        return _within_limit(config, config.time_limit, parents)
    if config.gate_loss is not None:
        number = number_within(parents, config.gate_loss)
        return replace(config, gate_loss=None, gate_blocks=number) if number else without_gates(config)
    if config.d_th is None:
        return config
    gated = [density for density in inner_densities(config.experiment, parents, config.budget) if density <= config.d_th]
    return replace(config, d_th=max(gated)) if gated else without_gates(config)


def _within_limit(config: FinetuneConfig, limit: TimeLimit, parents: Mapping[str, Parent]) -> FinetuneConfig:
    """Limits over different links keep their own, unless they gate the blocks that a number of them would."""
    found = gated_in_time(limit, config.experiment, parents, config.budget)
    if not found.blocks:
        return without_gates(config)
    if list(found.blocks) == gated_by_loss(parents, len(found.blocks)):
        return replace(config, time_limit=None, gate_blocks=len(found.blocks))
    lowest = replace(limit, max_seconds=found.seconds)
    # Where blocks are found step by step a lower limit may lead elsewhere.
    same = gated_in_time(lowest, config.experiment, parents, config.budget).blocks == found.blocks
    return replace(config, time_limit=lowest) if same else config


def gate_columns(config: FinetuneConfig) -> dict[str, Any]:
    """The columns of results.csv that say what was asked for of gates; all None where none were."""
    names = ("d_th", "gate_blocks", "gate_loss", "gamma", "gate_epochs", "gb_init", "kernel_size")
    limit = config.time_limit
    of_limit = {"max_seconds": limit and limit.max_seconds, "link": limit and limit.link}
    return {name: getattr(config, name) if config.which_gated() else None for name in names} | of_limit


def finetune_stage(config: FinetuneConfig, *, baseline: Stage, mask: Stage, gating: Stage | None = None) -> Stage:
    """The stage that fine-tunes one configuration; what a sweep is about.

    Args:
        config: what it depends on.
        baseline: the AR teacher.
        mask: a mask stage, or a ranking, which takes its budget from the configuration.
        gating: what blocks would lose, where that decides which are gated.

    Raises:
        ValueError: a budget for a mask that has its own, or none for a ranking; or likewise for gating.
    """
    if (mask.name == "ranking") != (config.budget is not None):
        raise ValueError(f"budget is {config.budget} with a {mask.name}; expected a budget with a ranking, and with it alone")
    by_loss = config.which_gated().keys() - {"d_th"}
    if bool(gating) != bool(by_loss):
        raise ValueError(
            f"gating is {gating} with {', '.join(by_loss) or 'no choice by loss'}; expected it with one, and no other"
        )
    parents = {"baseline": baseline, mask.name: mask} | ({"gating": gating} if gating else {})
    ramp = f"{config.gamma} over {config.gate_epochs}"
    if config.gate_blocks is not None:
        said = [f"{config.gate_blocks} blocks gated", ramp]
    elif config.gate_loss is not None:
        said = [f"gates lose at most {config.gate_loss:g}", ramp]
    elif config.time_limit is not None:
        said = [str(config.time_limit), ramp]
    else:
        said = ["no gates"] if config.d_th is None else [f"d_th {config.d_th:g}", ramp]
    said.append(f"AC after {'+'.join(map(str, config.ac_after))}" if config.ac_after else "no AC")
    for name in ("gb_init", "kernel_size", "ac_head", "ac_init", "ac_end", "pram"):  # what most sweeps leave as it is
        value = getattr(config, name)
        if value != FinetuneConfig.__dataclass_fields__[name].default:
            said.append(f"{name} {value}")
    if config.weights != "continue":
        said.append("rewound")
    kept = [] if config.budget is None else [str(config.budget)]
    note = ", ".join([*kept, mask.note, *said, f"beta {config.beta:g}"])
    return Stage(
        name="finetune",
        version=3,
        config=config,
        run=run,
        epochs=config.recipe.epochs,
        parents=parents,
        note=note,
        stoppable=True,
        canonical=canonical,
        columns=gate_columns,
        stands_for=max(1, len(config.ac_after)),
    )


def run(config: FinetuneConfig, context: Context) -> StageResult:
    """Fine-tune, collapse, and report a row per exit."""
    experiment = config.experiment
    batches = Batches(experiment.data, context.splits(experiment.data), context.device)
    teacher = experiment.teacher(context.parents["baseline"].tensors(), context.device)
    student = experiment.build("finetune")
    facts = start_student(student, context, config.weights, config.budget)
    metrics: dict[str, Any] = {}
    if config.budget is not None:
        metrics["layers"] = [
            {"layer": l.name, "kept": l.relu.kept, "size": l.relu.size, "eta_alpha": None} for l in student.relu_layers()
        ]
    chosen = _chosen_blocks(config, context.parents)
    if chosen is not None and config.budget is not None:
        inner = experiment.inner_relus()
        share_out_rest(student, context.parents["ranking"], config.budget, {inner[block] for block in chosen})
    seed_torch(experiment.seed, "finetune branches")
    gated = grow_shallow_branches(student, config.d_th if chosen is None else chosen, config.kernel_size)
    for stage in config.ac_after:
        student.add_exit(stage, config.ac_head)
    student.to(context.device)
    metrics["gated_blocks"] = gated
    size, seed = config.recipe.batch_size, experiment.seed
    if config.weights == "rewind":
        measure_body(student, batches, size, seed)
    if gated:
        metrics |= start_branches(student, batches, config.gb_init, size, seed)
    if config.ac_after and config.ac_init == "fit":
        metrics |= start_heads(student, teacher, batches, gamma_at(0, config.gate_epochs, config.gamma), seed)
    task = FinetuneTask(student, teacher, config, any_gated=bool(gated))
    trained = train(task, config.recipe, experiment.seed, batches, context)
    student.load_state_dict(trained.best_state)
    deployed, val_accuracy = drop_main_branches(student), trained.val_accuracy
    if config.ac_after and config.ac_end == "fit":
        # Training may hold its teacher in another precision.
        teacher = experiment.teacher(context.parents["baseline"].tensors(), context.device)
        metrics["ac_end_fit"] = refit_heads(deployed, teacher, batches, seed)
        val_accuracy = accuracy(deployed, batches, "val", context.workers)
    experiment.save(deployed, context)
    costs = {name: count_costs(deployed, name) for name in val_accuracy}
    tested = tally(deployed, batches, "test", context.workers)
    metrics[BY_CLASS] = by_class(tested.images, tested.right)
    rows = exit_rows(
        experiment,
        costs,
        val_accuracy,
        tested.accuracy(),
        **facts,
        weights=config.weights,
        **gate_columns(config),
        ac_after="+".join(map(str, config.ac_after)) or None,
        ac_head=config.ac_head if config.ac_after else None,
        ac_init=config.ac_init if config.ac_after else None,
        ac_end=config.ac_end if config.ac_after else None,
        pram=config.pram if config.beta else None,
        beta=config.beta,
        recipe=config.recipe,
    )
    metrics["best_epoch"] = trained.best_epoch
    metrics["costs"] = {name: of_exit.by_layer() for name, of_exit in costs.items()}
    return StageResult(metrics=metrics, history=trained.history, rows=rows)


def _chosen_blocks(config: FinetuneConfig, parents: Mapping[str, Parent]) -> list[str] | None:
    """The blocks that are gated, where what they would lose decides; else None."""
    if config.time_limit is not None:
        return list(gated_in_time(config.time_limit, config.experiment, parents, config.budget).blocks)
    number = config.gate_blocks if config.gate_loss is None else number_within(parents, config.gate_loss)
    return None if number is None else gated_by_loss(parents, number)


class FinetuneTask(TaughtTask):
    """Equation 2, plus the same KL and CE for every auxiliary classifier (AKD).

    Args:
        student: with its shallow branches and auxiliary classifiers.
        teacher: frozen, on the same device.
        config: loss weights and the gate's course.
        any_gated: whether the student has a gated block.
    """

    def __init__(self, student: Network, teacher: Network, config: FinetuneConfig, *, any_gated: bool) -> None:
        super().__init__(student, teacher, config.rho)
        self._config, self._any_gated = config, any_gated

    def begin_epoch(self, epoch: int) -> None:
        """Set γ for the epoch."""
        self._gamma = gamma_at(epoch, self._config.gate_epochs, self._config.gamma)
        self.model.set_gates(self._gamma)

    def eligible(self, epoch: int) -> bool:
        """Only epochs with all gates at 1 can be deployed."""
        return not self._any_gated or epoch >= self._config.gate_epochs

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Report γ."""
        return {"gamma": self._gamma} if self._any_gated else {}

    def deployed(self) -> Network:
        """See `Task`: with its shallow branches alone."""
        return drop_main_branches(self.model)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """λ·KL + (1 − λ)·CE summed over the exits, + β·PRAM over the stages' outputs."""
        config = self._config
        with torch.no_grad():
            target = self._teacher(images)
        output = self.model(images)
        total = output.logits[FINAL].new_zeros(())
        for logits_nk in output.logits.values():
            distilled = distillation_kl(logits_nk, target.logits[FINAL], self._rho)
            total = total + config.kl_weight * distilled + (1.0 - config.kl_weight) * F.cross_entropy(logits_nk, labels)
        if config.beta:
            total = total + config.beta * PRAM_LOSSES[config.pram](output.features, target.features)
        return total
