"""The network that all stages share: a stem, stages of blocks, a final classifier and any auxiliary ones.

Owns the forward pass, the list of ReLU layers and the exits. Refuses to know about training. Contract: `relu_layers()` is in
forward order and the same for teacher and student, so that layer l means the same in both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysp.models.blocks import Block, GatedBlock, ReLULayer, conv3x3
from raysp.models.exits import AC_HEADS, FINAL, HeadShape, exit_name, final_head
from raysp.models.relu import MaskedReLU
from raysp.models.residual import BasicBlock, WideBlock
from raysp.models.vgg import PairBlock, SingleBlock

MAX_WIDTH = 4096
"""More channels in the first stage than this are taken for a slip."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family member, for any width."""

    name: str
    block: type[BasicBlock] | type[WideBlock] | type[PairBlock]
    """Of two convolutions each; an odd convolution of a stage becomes a `SingleBlock`."""
    convs_per_stage: tuple[int, ...]
    """Convolutions on the main path, without the stem's. Each stage but the first halves the resolution."""
    width_multiples: tuple[int, ...]
    """Channels of each stage, as multiples of the width."""
    default_width: int
    """Channels of the first stage."""
    stem_width: int | None = None
    """Channels of the stem, where they don't follow the width."""

    def __post_init__(self) -> None:
        # A stage's resolution is halved by its first pair.
        assert min(self.convs_per_stage[1:], default=2) >= 2, "a later stage needs two convolutions or more"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a forward pass gives."""

    logits: dict[str, Tensor]
    """(n, classes) per exit, by the exit's name; in float32 under autocast, because softmaxes are taken of them."""
    features: list[Tensor]
    """Each stage's output after its ReLU (n, c, h, w): the PRAM loss's pairs. A pre-activated stage's ReLU stands behind it, in
    the next stage's first block or in the final classifier, and its map is missing where those were cut off."""


class Network(nn.Module):
    """A network for small images (CIFAR stem: one 3x3 convolution, no pooling).

    Args:
        architecture: block kind and counts.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels; a multiple of the network's total stride.
        in_channels: channels of the images.
        width: channels of the first stage; None takes the architecture's own.

    Raises:
        ValueError: an argument is out of range.
    """

    foldable = (("stem_conv", "stem_bn"),)

    def __init__(
        self, architecture: Architecture, *, num_classes: int, image_size: int, in_channels: int, width: int | None = None
    ) -> None:
        super().__init__()
        width = architecture.default_width if width is None else width
        num_stages = len(architecture.convs_per_stage)
        total_stride = 2 ** (num_stages - 1)
        if not 1 <= width <= MAX_WIDTH:
            raise ValueError(f"width {width}; expected 1 to {MAX_WIDTH} channels in the first stage")
        if in_channels < 1:
            raise ValueError(f"images of {in_channels} channels; expected at least 1")
        if num_classes < 2:
            raise ValueError(f"{num_classes} classes; expected at least 2")
        if image_size < total_stride or image_size % total_stride:
            raise ValueError(
                f"image size {image_size}; expected a multiple of {total_stride}, the total stride of {architecture.name}"
            )
        self.name, self.width = architecture.name, width
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.input_mean, self.input_std = [0.0] * in_channels, [1.0] * in_channels
        """What images in [0, 1] are normalised by before they come in, per channel; kept for whoever deploys the network."""
        self.folded = False
        """Whether its batch norms were folded into convolutions."""
        self.stage_sizes = [image_size // 2**s for s in range(num_stages)]
        self.stage_channels = [width * m for m in architecture.width_multiples]
        stem_width = architecture.stem_width or width
        self.preactivated = preactivated = architecture.block.preactivated
        self.stem_conv = conv3x3(in_channels, stem_width)
        self.stem_bn: nn.Module | None = None if preactivated else nn.BatchNorm2d(stem_width)
        self.stem_relu = None if preactivated else MaskedReLU((stem_width, image_size, image_size), inplace=True)
        self.stages = nn.ModuleList()
        channels = stem_width
        for index, num_convs in enumerate(architecture.convs_per_stage):
            num_out, size = self.stage_channels[index], self.stage_sizes[index]
            blocks: list[Block] = []
            for number in range(num_convs // 2):
                stride = 2 if index and not number else 1
                blocks.append(architecture.block(channels, num_out, stride, size))
                channels = num_out
            if num_convs % 2:
                blocks.append(SingleBlock(channels, num_out, size))
                channels = num_out
            self.stages.append(nn.Sequential(*blocks))
        self.heads = nn.ModuleDict({FINAL: final_head(self._head_shape(num_stages))})
        self.ac_heads: dict[str, str] = {}
        """Kind of each auxiliary head, by its exit."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # on "meta" torch would import its compiler first
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[tuple[str, Block]]:
        """All blocks with their names, in forward order."""
        found = []
        for s, stage in enumerate(self.stages):
            assert isinstance(stage, nn.Sequential)
            for b, block in enumerate(stage):
                assert isinstance(block, Block)
                found.append((f"stages.{s}.{b}", block))
        return found

    def gated_blocks(self) -> list[tuple[str, GatedBlock]]:
        """The blocks of two convolutions, which can be gated, whether they are or not."""
        return [(name, block) for name, block in self.blocks() if isinstance(block, GatedBlock)]

    def relu_layers(self) -> list[ReLULayer]:
        """Every ReLU layer that the network has, auxiliary heads left out, in forward order."""
        layers = []
        if self.stem_relu is not None:
            layers.append(ReLULayer(name="stem_relu", relu=self.stem_relu, conv=self.stem_conv))
        before = self.stem_conv
        for name, block in self.blocks():
            layers += block.relu_layers(name, before)
            before = block.main_path()[-1][1]
        for module in self.heads[FINAL].modules() if FINAL in self.heads else ():
            if isinstance(module, MaskedReLU):
                layers.append(ReLULayer(name="heads.final.relu", relu=module, conv=before))
        return layers

    def num_relus(self) -> int:
        """Positions of `relu_layers` that could hold a ReLU, whether they do or not; `raysp.count_costs` counts those that do."""
        return sum(layer.relu.size for layer in self.relu_layers())

    def add_exit(self, after_stage: int, head: str) -> None:
        """Add an auxiliary classifier, exit `ac<after_stage>`. Its own ReLUs, if it has any, are all kept.

        Args:
            after_stage: from 1 to the number of stages minus 1.
            head: a name in `AC_HEADS`.

        Raises:
            ValueError: no such stage or head.
        """
        if not 1 <= after_stage < len(self.stage_sizes):
            raise ValueError(
                f"auxiliary classifier after stage {after_stage}; expected a stage from 1 to {len(self.stage_sizes) - 1} "
                f"of {self.name}'s {len(self.stage_sizes)} (behind the last stands the final classifier)"
            )
        if head not in AC_HEADS:
            raise ValueError(f"unknown head {head!r}; expected one of {', '.join(AC_HEADS)}")
        self.heads[exit_name(after_stage)] = AC_HEADS[head](self._head_shape(after_stage))
        self.ac_heads[exit_name(after_stage)] = head

    def _head_shape(self, after_stage: int) -> HeadShape:
        return HeadShape(
            channels=self.stage_channels[after_stage - 1],
            size=self.stage_sizes[after_stage - 1],
            last_channels=self.stage_channels[-1],
            last_size=self.stage_sizes[-1],
            num_classes=self.num_classes,
            preactivated=self.preactivated,
        )

    def set_gates(self, gamma: float) -> None:
        """Set γ ∈ [0, 1] of every block that has a shallow branch."""
        for _, block in self.gated_blocks():
            if block.shallow is not None:
                block.gate = gamma

    def forward(self, x_nchw: Tensor) -> Outputs:
        """Map normalised images (n, in_channels, image_size, image_size) to logits and stage outputs."""
        x = self.stem_conv(x_nchw)
        if self.stem_bn is not None and self.stem_relu is not None:
            x = self.stem_relu(self.stem_bn(x))
        features, logits = [], {}
        for number, stage in enumerate(self.stages, start=1):
            assert isinstance(stage, nn.Sequential)
            first = stage[0]
            if isinstance(first, WideBlock):
                active = first.activate(x)
                if number > 1:
                    features.append(active)
                x = stage[1:](first.after(x, active))
            else:
                x = stage(x)
                features.append(x)
            name = exit_name(number)
            if name in self.heads:
                logits[name] = _in_full(self.heads[name](x))
        if FINAL in self.heads:
            head = self.heads[FINAL]
            assert isinstance(head, nn.Sequential)
            if self.preactivated:
                x = head[:2](x)  # the batch norm and ReLU that the last stage still owes
                features.append(x)
                head = head[2:]
            logits[FINAL] = _in_full(head(x))
        return Outputs(logits=logits, features=features)

    def decided(self) -> tuple[str, ...]:
        """What Python decides in a forward pass, by masks and gates. As long as it is the same, so are the operations."""
        return tuple(module.decided for module in self.modules() if isinstance(module, MaskedReLU | GatedBlock))

    def example_input(self) -> Tensor:
        """One black image, (1, in_channels, image_size, image_size), on the CPU."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)


def _in_full(logits_nk: Tensor) -> Tensor:
    # Asked of torch, not of the tensor: who traces the network has no tensor.
    return logits_nk.float() if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))) else logits_nk
