"""Ready-made recipes: every number of a run that a user doesn't give.

Owns the presets and nothing else. The `paper-*` ones follow "Making Models Shallow Again" (CVPR-W 2023, section 5.1) and SENet
(arXiv 2301.09254) for stages 1 and 2 in every number that they give: epochs, rates, decays, loss weights, Table 1's budgets and
thresholds. They differ in that the best epoch is chosen on a held-out tenth of the training part, not on the test part, and in
what the papers leave open: the auxiliary head and the sparse twin's largest density. The others are short recipes that finish
on modest machines.
"""

from dataclasses import dataclass
from typing import Literal

from raysp.schedules import GammaSchedule, Recipe

PresetName = Literal[
    "quick", "cifar10", "cifar100", "paper-resnet18-cifar10", "paper-resnet18-cifar100", "paper-wrn22-8-cifar100"
]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A data set, a network, four recipes, and the axes of a sweep."""

    name: PresetName
    dataset: str
    """As `--dataset` takes it."""
    model: str
    """A name in `raysp.models.MODELS`."""
    width: int
    """Channels of the first residual stage."""
    baseline: Recipe
    sensitivity: Recipe
    mask: Recipe
    finetune: Recipe
    gate_epochs: int
    """Epochs of the fine-tuning until γ is 1."""
    mask_frozen_share: float
    """Share of the mask stage's epochs, at its end, with a frozen mask."""
    beta: float
    """Weight of the PRAM loss; the paper's 1000 drowns the other terms in short runs and on small maps."""
    budgets: tuple[float, ...]
    """ReLU units, or shares of the network's ReLUs when below 1."""
    d_th: tuple[float | None, ...]
    gamma: tuple[GammaSchedule, ...] = ("linear",)
    ac_after: tuple[int | None, ...]
    seeds: tuple[int, ...] = (0,)


def _short(epochs: int, lr: float = 0.05, batch_size: int = 128) -> Recipe:
    return Recipe(epochs=epochs, batch_size=batch_size, lr=lr, decay="cosine", milestones=())


_QUICK = Preset(
    name="quick",
    dataset="digits",
    model="resnet18",
    width=16,
    baseline=_short(24, batch_size=64),
    sensitivity=_short(12, batch_size=64),
    mask=_short(16, batch_size=64),
    finetune=_short(16, lr=0.02, batch_size=64),
    gate_epochs=6,
    mask_frozen_share=0.5,
    beta=10.0,
    budgets=(0.05, 0.1, 0.2, 0.4),
    d_th=(0.1,),
    ac_after=(3,),
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
        finetune=_short(30, lr=0.02),
        gate_epochs=12,
        mask_frozen_share=0.4,
        beta=100.0,
        budgets=(0.045, 0.09, 0.18),
        d_th=(0.1,),
        ac_after=(3,),
    )


def _paper(
    name: PresetName,
    dataset: str,
    model: str,
    width: int,
    budgets: tuple[float, ...],
    d_th: float,
    ac_after: tuple[int | None, ...],
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
        finetune=Recipe(epochs=180, lr=0.01, milestones=(90, 140, 160)),
        gate_epochs=90,
        mask_frozen_share=0.0,
        beta=1000.0,
        budgets=budgets,
        d_th=(d_th,),
        ac_after=ac_after,
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _QUICK,
        _cifar("cifar10"),
        _cifar("cifar100"),
        # Budgets and thresholds of Table 1, with and without an auxiliary classifier where Table 2 has one.
        _paper("paper-resnet18-cifar10", "cifar10", "resnet18", 64, (82_000,), 0.1, (None, 3)),
        _paper("paper-resnet18-cifar100", "cifar100", "resnet18", 64, (24_900, 49_600), 0.05, (None, 3)),
        _paper("paper-wrn22-8-cifar100", "cifar100", "wrn22-8", 128, (240_000,), 0.1, (None,)),
    )
}
"""Presets by name; a new one needs an entry here and its name in `PresetName`."""
