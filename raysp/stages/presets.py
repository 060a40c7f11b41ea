"""Ready-made recipes: every number of a run that a user doesn't give.

Owns the presets and nothing else. The `paper-*` ones follow "Making Models Shallow Again" (CVPR-W 2023, section 5.1) and SENet
(arXiv 2301.09254) for stages 1 and 2 in every number that they give: epochs, rates, decays, loss weights, budgets and thresholds,
and the choice of the best epoch by the test part. What the papers leave open is ours: the auxiliary head, the sparse twin's
largest density, Table 2's thresholds, and an end to SNL's search. The others are short recipes that finish on modest machines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from raysp.data.config import Selection
from raysp.methods.choices import SnlConfig
from raysp.training.recipes import Recipe

PresetName = Literal[
    "quick", "cifar10", "cifar100", "paper-resnet18-cifar10", "paper-resnet18-cifar100", "paper-wrn22-8-cifar100"
]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A data set, a network, the stages' recipes, and the axes of a sweep."""

    name: PresetName
    """As `--preset` takes it."""
    dataset: str
    """As `--dataset` takes it."""
    model: str
    """A name in `raysp.models.MODELS`."""
    width: int
    """Channels of the first residual stage."""
    baseline: Recipe
    """Of the all-ReLU network."""
    sensitivity: Recipe
    """Of the sparse twin."""
    mask: Recipe
    """Of the mask stage."""
    snl: Recipe
    """Of the mask stage when its method is SNL."""
    finetune: Recipe
    """Of a fine-tuning that goes on with the mask stage's weights."""
    ranking: Recipe
    """Of the walk that ranks all ReLUs."""
    frozen: Recipe
    """Of the same without training."""
    rewind: Recipe
    """Of a fine-tuning whose weights start as the all-ReLU network's."""
    rewind_kl_weight: float
    """λ of such a fine-tuning."""
    rewind_beta: float
    """β of such a fine-tuning, in PRAM's `attention` form."""
    gate_epochs: int
    """Epochs of the fine-tuning until γ is 1."""
    mask_frozen_share: float
    """Share of the mask stage's epochs, at its end, with a frozen mask."""
    snl_search: SnlConfig
    """How SNL searches; short searches need a faster α and a larger penalty."""
    snl_frozen_share: float
    """Share of SNL's epochs, at its end, that are kept for training with the mask it has found."""
    beta: float
    """Weight of the PRAM loss in its `attention` form; the paper's 1000 drowns the other terms in short runs and on small
    maps."""
    axes: Mapping[str, tuple[Any, ...]]
    """What a sweep tries where nobody says otherwise, by the field of `raysp.methods.choices.Choice`: budgets, and stages with an
    auxiliary classifier for each model, at least. The rest are `Choice`'s own defaults, which are the paper's."""
    selection: Selection = "val"
    """Part of the data that chooses the best epoch."""


def _short(epochs: int, lr: float = 0.05, batch_size: int = 128) -> Recipe:
    return Recipe(epochs=epochs, batch_size=batch_size, lr=lr, decay="cosine", milestones=())


def _adam(epochs: int, batch_size: int = 128) -> Recipe:
    """SNL's optimizer: Adam at 1e-3, no decay of rate or weights."""
    return Recipe(epochs=epochs, batch_size=batch_size, optimizer="adam", lr=1e-3, milestones=(), weight_decay=0.0)


_OURS: Mapping[str, tuple[Any, ...]] = {
    "mask_method": ("taylor",),
    "gate_loss": (0.25,),
    "gb_init": ("least-squares",),
    "gate_epochs": (0,),
    "ac_after": ((3,),),
    "ac_head": ("grid",),
    "ac_init": ("fit",),
    "ac_end": ("fit",),
}
"""One ranking for all budgets, and one training in which mask, gates and heads stand from the first step."""

_QUICK = Preset(
    name="quick",
    dataset="digits",
    model="resnet18",
    width=16,
    baseline=_short(24, batch_size=64),
    sensitivity=_short(12, batch_size=64),
    mask=_short(16, batch_size=64),
    snl=_adam(16, batch_size=64),
    finetune=_short(16, lr=0.02, batch_size=64),
    ranking=_short(12, batch_size=64),
    frozen=_short(12, batch_size=64),
    rewind=replace(_short(16, batch_size=64), max_gradient=1.0),  # without, some of the many-gated are lost
    rewind_kl_weight=0.5,
    rewind_beta=0.0,
    gate_epochs=6,
    mask_frozen_share=0.5,
    snl_search=SnlConfig(alpha_share=10.0, penalty=3e-3, growth=1.5),
    snl_frozen_share=0.25,
    beta=10.0,
    axes={"budget": (0.05, 0.1, 0.2, 0.4), **_OURS},
)


def _cifar(name: Literal["cifar10", "cifar100"]) -> Preset:
    return Preset(
        name=name,
        dataset=name,
        model="resnet18",
        width=64,
        baseline=_short(40, lr=0.1),
        sensitivity=_short(20, lr=0.1),
        mask=_short(20),
        snl=_adam(20),
        finetune=_short(30, lr=0.02),
        ranking=_short(5),
        frozen=_short(1),
        rewind=replace(_short(30), max_gradient=1.0),  # wide heads on large maps diverge without
        rewind_kl_weight=0.5,
        rewind_beta=0.0,
        gate_epochs=12,
        mask_frozen_share=0.4,
        snl_search=SnlConfig(alpha_share=5.0, penalty=1e-3),
        snl_frozen_share=0.4,
        beta=100.0,
        axes={"budget": (0.045, 0.09, 0.18), **_OURS},
    )


def _paper(
    name: PresetName,
    dataset: str,
    model: str,
    width: int,
    budgets: tuple[float, ...],
    d_th: float,
    ac_after: tuple[tuple[int, ...], ...],
) -> Preset:
    return Preset(
        name=name,
        dataset=dataset,
        model=model,
        width=width,
        baseline=Recipe(epochs=240, milestones=(150, 180, 210)),
        sensitivity=Recipe(epochs=240, milestones=(150, 180, 210)),
        # 62.5 %, 75 % and 87.5 % of 150 epochs, as in the other stages that SENet trains at this rate.
        mask=Recipe(epochs=150, milestones=(94, 112, 131)),
        snl=_adam(150),
        finetune=Recipe(epochs=180, lr=0.01, milestones=(90, 140, 160)),
        ranking=_short(30),
        frozen=_short(1),
        rewind=_short(180),
        rewind_kl_weight=0.5,
        rewind_beta=0.0,
        gate_epochs=90,
        mask_frozen_share=0.0,
        snl_search=SnlConfig(),
        snl_frozen_share=0.2,
        beta=1000.0,
        axes={"budget": budgets, "d_th": (None, d_th), "gamma": ("linear",), "ac_after": ac_after},
        selection="test",
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _QUICK,
        _cifar("cifar10"),
        _cifar("cifar100"),
        # Tables 1 and 2: with and without gated branching, and with an auxiliary classifier where Table 2 has one. Table 2 gives
        # the ReLUs that are left after gating, 141k and 96k; the budgets above them are the round ones, 150k and 100k.
        _paper("paper-resnet18-cifar10", "cifar10", "resnet18", 64, (82_000, 150_000), 0.1, ((), (3,))),
        _paper("paper-resnet18-cifar100", "cifar100", "resnet18", 64, (24_900, 49_600, 100_000), 0.05, ((), (3,))),
        _paper("paper-wrn22-8-cifar100", "cifar100", "wrn22-8", 128, (240_000,), 0.1, ((),)),
    )
}
"""Presets by name; a new one needs an entry here and its name in `PresetName`."""
