"""The network that all stages share: a stem, residual stages, a final classifier and any auxiliary ones.

Owns the forward pass, the list of ReLU layers and the exits. Refuses to know about training. Contract: `relu_layers()` is in
forward order and the same for teacher and student, so that layer l means the same in both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysp.models.blocks import BasicBlock, GatedBlock, ReLULayer, WideBlock, conv3x3
from raysp.models.exits import AC_HEADS, FINAL, activated_pool_head, pool_head
from raysp.models.relu import MaskedReLU

MAX_WIDTH = 4096
"""More channels in the first stage than this are taken for a slip."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family member, for any width."""

    block: type[BasicBlock] | type[WideBlock]
    blocks_per_stage: tuple[int, ...]
    default_width: int
    """Channels of the first residual stage; each later stage doubles it."""
    stem_width: int | None
    """Channels of the stem, where they don't follow the width."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a forward pass gives."""

    logits: dict[str, Tensor]
    """(n, classes) per exit, by the exit's name."""
    features: list[Tensor]
    """Each residual stage's output (n, c, h, w): the PRAM loss's pairs. After its ReLU, or the plain sum where the blocks are
    pre-activated."""


class Network(nn.Module):
    """A residual network for small images (CIFAR stem: one 3x3 convolution, no pooling).

    Args:
        architecture: block kind and counts.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels; a multiple of the network's total stride.
        in_channels: channels of the images.
        width: channels of the first stage; None takes the architecture's own.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, architecture: Architecture, *, num_classes: int, image_size: int, in_channels: int, width: int | None = None
    ) -> None:
        super().__init__()
        width = architecture.default_width if width is None else width
        num_stages = len(architecture.blocks_per_stage)
        total_stride = 2 ** (num_stages - 1)
        if not 1 <= width <= MAX_WIDTH or in_channels < 1:
            raise ValueError(f"width {width}, {in_channels} image channels; expected 1 to {MAX_WIDTH}, and at least 1")
        if num_classes < 2:
            raise ValueError(f"{num_classes} classes; expected at least 2")
        if image_size < total_stride or image_size % total_stride:
            raise ValueError(f"image size {image_size}; expected a multiple of {total_stride}, the network's total stride")
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.stage_sizes = [image_size // 2**s for s in range(num_stages)]
        self.stage_channels = [width * 2**s for s in range(num_stages)]
        stem_width = architecture.stem_width or width
        self.preactivated = preactivated = architecture.block.preactivated
        self.stem_conv = conv3x3(in_channels, stem_width)
        self.stem_bn = None if preactivated else nn.BatchNorm2d(stem_width)
        self.stem_relu = None if preactivated else MaskedReLU((stem_width, image_size, image_size))
        self.stages = nn.ModuleList()
        channels = stem_width
        for index, num_blocks in enumerate(architecture.blocks_per_stage):
            blocks = []
            for number in range(num_blocks):
                stride = 2 if index and not number else 1
                blocks.append(architecture.block(channels, self.stage_channels[index], stride, self.stage_sizes[index]))
                channels = self.stage_channels[index]
            self.stages.append(nn.Sequential(*blocks))
        build_head = activated_pool_head if preactivated else pool_head
        self.heads = nn.ModuleDict({FINAL: build_head(channels, num_classes, self.stage_sizes[-1])})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[tuple[str, GatedBlock]]:
        """All residual blocks with their names, in forward order."""
        found = []
        for s, stage in enumerate(self.stages):
            assert isinstance(stage, nn.Sequential)
            for b, block in enumerate(stage):
                assert isinstance(block, GatedBlock)
                found.append((f"stages.{s}.{b}", block))
        return found

    def relu_layers(self) -> list[ReLULayer]:
        """Every ReLU layer of the network without auxiliary heads, in forward order, before anything is collapsed."""
        layers = []
        if self.stem_relu is not None:
            layers.append(ReLULayer(name="stem_relu", relu=self.stem_relu, conv=self.stem_conv))
        before = self.stem_conv
        for name, block in self.blocks():
            layers += block.relu_layers(name, before)
            assert block.conv2 is not None
            before = block.conv2
        for module in self.heads[FINAL].modules():
            if isinstance(module, MaskedReLU):
                layers.append(ReLULayer(name="heads.final.relu", relu=module, conv=before))
        return layers

    def num_relus(self) -> int:
        """ReLU positions of the whole network, all kept."""
        return sum(layer.relu.size for layer in self.relu_layers())

    def add_exit(self, after_stage: int, head: str) -> None:
        """Add an auxiliary classifier, exit `ac<after_stage>`. Its own ReLUs, if it has any, are all kept.

        Args:
            after_stage: from 1 to the number of stages minus 1.
            head: a name in `AC_HEADS`.

        Raises:
            ValueError: no such stage or head.
        """
        if not 1 <= after_stage < len(self.stages):
            raise ValueError(f"auxiliary classifier after stage {after_stage}; expected a stage from 1 to {len(self.stages) - 1}")
        if head not in AC_HEADS:
            raise ValueError(f"unknown head {head!r}; expected one of {', '.join(AC_HEADS)}")
        exit_name = f"ac{after_stage}"
        index = after_stage - 1
        self.heads[exit_name] = AC_HEADS[head][self.preactivated](
            self.stage_channels[index], self.num_classes, self.stage_sizes[index]
        )

    def set_gates(self, gamma: float) -> None:
        """Set γ ∈ [0, 1] of every block that has a shallow branch."""
        for _, block in self.blocks():
            if block.shallow is not None:
                block.gate = gamma

    def forward(self, x_nchw: Tensor) -> Outputs:
        """Map normalised images (n, in_channels, image_size, image_size) to logits and stage outputs."""
        x = self.stem_conv(x_nchw)
        if self.stem_bn is not None and self.stem_relu is not None:
            x = self.stem_relu(self.stem_bn(x))
        features, logits = [], {}
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            features.append(x)
            name = f"ac{number}"
            if name in self.heads:
                logits[name] = self.heads[name](x)
        if FINAL in self.heads:
            logits[FINAL] = self.heads[FINAL](x)
        return Outputs(logits=logits, features=features)

    def example_input(self) -> Tensor:
        """One black image, (1, in_channels, image_size, image_size)."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)
