"""All that must be known to build a network again: a description that is data, not code.

Owns the description, making it from a network in whatever state it is, and building from it. Refuses to read or write files
(`raysp.models.files`).
"""

from dataclasses import dataclass

import torch

from raysp.models import build_model
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.exits import AC_HEADS, FINAL, exit_name
from raysp.models.network import Network
from raysp.store.keys import Config


@dataclass(frozen=True, kw_only=True)
class NetworkShape(Config):
    """All that must be known to build the network that some weights belong to.

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


def shape_of(model: Network) -> NetworkShape:
    """Describe a network in whatever state it is."""
    blocks = [block for _, block in model.gated_blocks()]
    # A collapsed network has lost blocks; those that are left come first.
    return NetworkShape(
        model=model.name,
        num_classes=model.num_classes,
        image_size=model.image_size,
        in_channels=model.in_channels,
        width=model.width,
        shallow_kernels=tuple(block.shallow_kernel for block in blocks),
        main_branches=all(block.conv1 is not None for block in blocks),
        gates=tuple(block.gate for block in blocks),
        ac_heads=tuple(model.ac_heads.get(exit_name(s), "") for s in range(1, len(model.stage_sizes))),
        num_stages=len(model.stages),
        final=FINAL in model.heads,
        folded=model.folded,
        input_mean=tuple(model.input_mean),
        input_std=tuple(model.input_std),
    )


def build_shape(shape: NetworkShape) -> Network:
    """Build the network of a description, in evaluation mode, with weights of no meaning.

    Raises:
        ValueError: there is no such network.
    """
    with torch.device("cpu"):
        model = build_model(
            shape.model,
            num_classes=shape.num_classes,
            image_size=shape.image_size,
            in_channels=shape.in_channels,
            width=shape.width,
        )
        if len(shape.shallow_kernels) > len(model.gated_blocks()) or len(shape.ac_heads) != len(model.stages) - 1:
            raise ValueError(f"{len(shape.shallow_kernels)} blocks and {len(shape.ac_heads)} stages don't fit {shape.model}")
        for (_, block), kernel, gate in zip(model.gated_blocks(), shape.shallow_kernels, shape.gates, strict=False):
            if kernel:
                block.add_shallow_branch(kernel)
                block.gate = gate
                if not shape.main_branches:
                    block.drop_main_branch()
        for number, head in enumerate(shape.ac_heads, start=1):
            if head:
                model.add_exit(number, head)
    if not shape.final:
        model = collapse(model, next(iter(model.ac_heads)))
    if len(model.stages) != shape.num_stages:
        raise ValueError(f"{shape.num_stages} stages left of {shape.model} with these exits; expected {len(model.stages)}")
    if shape.folded:
        model = fold_batchnorm(model)
    model.input_mean, model.input_std = list(shape.input_mean), list(shape.input_std)
    return model.eval()
