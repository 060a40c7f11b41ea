"""What all stages of one chain share, and the rows that finished models give.

Owns the data-model-seed part of every stage's configuration, and the columns of results.csv that a stage knows.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raysp.data.config import DataConfig
from raysp.engine.context import Context
from raysp.models import build_model
from raysp.models.collapse import fold_batchnorm
from raysp.models.costs import Costs
from raysp.models.files import metadata_of
from raysp.models.layout import channels_last
from raysp.models.network import Network
from raysp.models.specs import drawn
from raysp.store.keys import Config, added, told
from raysp.training.loop import seed_torch
from raysp.training.recipes import Recipe

CUSTOM = "custom"
"""Stands where a built-in network's name would, with `Experiment.network`."""


@dataclass(frozen=True, kw_only=True)
class CustomNetwork(Config):
    """A network that isn't built in."""

    description: str
    """All that it does, see `raysp.models.specs.text_of`. No code: a machine that trains it needs not have its source."""
    name: str = told("custom")
    """As the user gave it."""

    def to_json(self) -> dict[str, Any]:
        """Its name and its description's digest: the description itself stands beside every model's weights."""
        return {"name": self.name, "sha256": hashlib.sha256(self.description.encode()).hexdigest()}


@dataclass(frozen=True, kw_only=True)
class Experiment(Config):
    """Data, network and seed.

    Raises:
        ValueError: the seed is out of range.
    """

    data: DataConfig
    """Which images."""
    model: str
    """A name in `raysp.models.MODELS`, or `CUSTOM`."""
    width: int
    """Channels of the first residual stage, at least 1; 0 of a custom network."""
    seed: int = 0
    """Of initial weights, masks, and the order and augmentation of images (the same in all stages); from 0 to 2^31 - 1."""
    network: CustomNetwork | None = added(None)
    """The network, where it isn't a built-in one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed {self.seed}; expected 0 to {2**31 - 1}")
        if (self.network is None) == (self.model == CUSTOM):
            raise ValueError(f"model is {self.model!r} with{'out' if self.network is None else ''} a custom network")

    @property
    def model_name(self) -> str:
        """What the network is called."""
        return self.model if self.network is None else self.network.name

    def build(self, purpose: str) -> Network:
        """Build the network with weights drawn for this seed and purpose."""
        seed_torch(self.seed, purpose)
        data = self.data
        if self.network is not None:
            return drawn(self.network.description, self.network.name)
        return build_model(
            self.model, num_classes=data.num_classes, image_size=data.image_size, in_channels=data.channels, width=self.width
        )

    def outline(self) -> Network:
        """The network without weights, on "meta". Torch's generator stays as it is."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return self.build("outline")

    def inner_relus(self) -> Mapping[str, str]:
        """The ReLU layer inside each block that can be gated, by the block's name, in forward order."""
        return _inner_relus(self)

    def teacher(self, state: Mapping[str, Tensor], device: torch.device) -> Network:
        """The finished baseline, frozen, with its batch norms folded: what students are compared to.

        Args:
            state: the baseline's.
            device: where it will compute.
        """
        network = self.build("baseline")
        network.load_state_dict(state)
        return channels_last(fold_batchnorm(network).requires_grad_(False).to(device))

    def save(self, model: Network, context: Context) -> None:
        """Write a stage's network, for its children and for `raysp.load_model`.

        Args:
            model: as it is to be saved; the normalisation of its inputs is noted in it.
            context: the stage's.
        """
        splits = context.splits(self.data)
        model.input_mean, model.input_std = splits.mean, splits.std
        context.save_weights(model.state_dict(), metadata_of(model))


@functools.lru_cache(maxsize=256)
def _inner_relus(experiment: Experiment) -> dict[str, str]:
    return {chain.name: chain.inner for chain in experiment.outline().chains}


def exit_rows(
    experiment: Experiment,
    costs: Mapping[str, Costs],
    val_accuracy: dict[str, float],
    test_accuracy: dict[str, float],
    *,
    budget: int,
    recipe: Recipe | None,
    mask_method: str = "none",
    **choices: Any,
) -> list[dict[str, Any]]:
    """One row per exit, with what the exit's collapsed network really costs.

    Args:
        experiment: what was trained.
        costs: per exit, with the chosen epoch's masks.
        val_accuracy, test_accuracy: percent per exit.
        recipe: how the stage trained; None where it didn't.
        budget, mask_method, choices: the configuration's columns of results.csv; None where a choice means nothing.
    """
    return [
        {
            "dataset": experiment.data.label,
            "model": experiment.model_name,
            "width": experiment.width or None,
            "image_size": experiment.data.image_size,
            "epochs": recipe.epochs if recipe else 0,
            "seed": experiment.seed,
            "selection": experiment.data.selection,
            "precision": recipe.precision if recipe else "fp32",
            "mask_method": mask_method,
            "budget": budget,
            **choices,
            "exit": name,
            **costs[name].totals(),
            "val_accuracy": val_accuracy[name],
            "test_accuracy": test_accuracy[name],
        }
        for name in sorted(val_accuracy, key=lambda name: (name != "final", name))
    ]
