"""Descriptions of before a network was a graph: they name a built-in network and say what had been done to it.

Owns reading them. None are written any more.
"""

from dataclasses import dataclass

import torch

from raysp.models import build_model
from raysp.models.collapse import collapse, drop_main_branches, fold_batchnorm
from raysp.models.exits import AC_HEADS
from raysp.models.network import Network
from raysp.store.keys import Config


@dataclass(frozen=True, kw_only=True)
class NetworkShape(Config):
    """All that was known of a built-in network.

    Raises:
        ValueError: a field is of another type, or out of the range that its docstring gives.
    """

    model: str
    """A name in `raysp.models.MODELS`."""
    num_classes: int
    image_size: int
    in_channels: int
    width: int
    shallow_kernels: tuple[int, ...]
    """Per block of two convolutions, in forward order: its shallow branch's kernel size, or 0."""
    main_branches: bool
    """Whether blocks with a shallow branch still have their two convolutions."""
    gates: tuple[float, ...]
    """Per block of two convolutions: its gate γ, in [0, 1]."""
    ac_heads: tuple[str, ...]
    """Per stage but the last: the auxiliary head after it, or an empty string."""
    num_stages: int
    """Stages that are left; fewer than the model's where all behind an auxiliary classifier was cut off."""
    final: bool
    """Whether the final classifier is left."""
    folded: bool
    """Whether its batch norms were folded into convolutions."""
    input_mean: tuple[float, ...]
    """Per channel, in units of 255."""
    input_std: tuple[float, ...]
    """Per channel, in units of 255."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(kernel not in (0, 3, 5) for kernel in self.shallow_kernels):
            raise ValueError(f"shallow_kernels {self.shallow_kernels}; expected 0, 3 or 5 each")
        if len(self.gates) != len(self.shallow_kernels) or not all(0 <= gate <= 1 for gate in self.gates):
            raise ValueError(f"gates {self.gates}; expected one from 0 to 1 for each of {len(self.shallow_kernels)} blocks")
        if any(head and head not in AC_HEADS for head in self.ac_heads):
            raise ValueError(f"ac_heads {self.ac_heads}; expected {', '.join(AC_HEADS)} or nothing each")
        if not self.final and sum(map(bool, self.ac_heads)) != 1:
            raise ValueError("no final classifier; expected exactly one auxiliary head then")
        if not len(self.input_mean) == len(self.input_std) == self.in_channels:
            raise ValueError(f"{len(self.input_mean)} means and {len(self.input_std)} deviations for {self.in_channels} channels")

    def build(self) -> Network:
        """Build the network, in evaluation mode, with weights of no meaning.

        Raises:
            ValueError: there is no such network.
        """
        with torch.device("cpu"):
            model = build_model(
                self.model,
                num_classes=self.num_classes,
                image_size=self.image_size,
                in_channels=self.in_channels,
                width=self.width,
            )
            if len(self.shallow_kernels) > len(model.gated_blocks()) or len(self.ac_heads) != model.num_stages - 1:
                raise ValueError(f"{len(self.shallow_kernels)} blocks and {len(self.ac_heads)} stages don't fit {self.model}")
            for (_, block), kernel, gate in zip(model.gated_blocks(), self.shallow_kernels, self.gates, strict=False):
                if kernel:
                    block.add_shallow_branch(kernel)
                    block.gate = gate
            for number, head in enumerate(self.ac_heads, start=1):
                if head:
                    model.add_exit(number, head)
        if not self.main_branches:
            model = drop_main_branches(model)
        if not self.final:
            model = collapse(model, next(iter(model.ac_heads)))
        if self.folded:
            model = fold_batchnorm(model, spared=("stages.0.0.bn0",))  # then it was taken for one behind a sum
        model.input_mean, model.input_std = list(self.input_mean), list(self.input_std)
        return model.eval()
