"""The built-in networks as plain torch modules, for small images (one 3x3 convolution as the stem, no pooling behind it).

Owns how they are built, and nothing about masks, gates or exits: those are found in their graphs, as in any network's.
"""

from dataclasses import dataclass

from torch import Tensor, nn

MAX_WIDTH = 4096
"""More channels in the first stage than this are taken for a slip."""


def conv3x3(num_in: int, num_out: int, stride: int = 1) -> nn.Conv2d:
    """A padded 3x3 convolution without bias."""
    return nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """ResNet's block: conv-BN-ReLU-conv-BN, plus the skip, ReLU."""

    preactivated = False

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(num_in, num_out, stride), nn.BatchNorm2d(num_out)
        self.inner_relu = nn.ReLU()
        self.conv2, self.bn2 = conv3x3(num_out, num_out), nn.BatchNorm2d(num_out)
        self.outer_relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False), nn.BatchNorm2d(num_out))

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        main = self.bn2(self.conv2(self.inner_relu(self.bn1(self.conv1(x_nchw)))))
        return self.outer_relu(main + self.shortcut(x_nchw))


class WideBlock(nn.Module):
    """Wide ResNet's block (arXiv 1605.07146), pre-activated: BN-ReLU-conv-BN-ReLU-conv, plus the skip."""

    preactivated = True

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.bn0, self.outer_relu = nn.BatchNorm2d(num_in), nn.ReLU()
        self.conv1, self.bn1 = conv3x3(num_in, num_out, stride), nn.BatchNorm2d(num_out)
        self.inner_relu = nn.ReLU()
        self.conv2 = conv3x3(num_out, num_out)
        # A block that changes shape takes its skip from the activated map, others from their input, as in the original.
        self.changes = stride != 1 or num_in != num_out
        self.shortcut = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False) if self.changes else nn.Identity()

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        active = self.outer_relu(self.bn0(x_nchw))
        skip = self.shortcut(active) if self.changes else x_nchw
        return self.conv2(self.inner_relu(self.bn1(self.conv1(active)))) + skip


class PairBlock(nn.Module):
    """VGG's pair of convolutions, conv-BN-ReLU-conv-BN-ReLU, behind a 2x2 *average* pool where it has a stride.

    The original's maximum would cost three comparisons per output under private inference, each as dear as a ReLU, and no ReLU
    count would show them.
    """

    preactivated = False

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(num_in, num_out), nn.BatchNorm2d(num_out)
        self.inner_relu = nn.ReLU()
        self.conv2, self.bn2 = conv3x3(num_out, num_out), nn.BatchNorm2d(num_out)
        self.outer_relu = nn.ReLU()
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        inner = self.inner_relu(self.bn1(self.conv1(self.pool(x_nchw))))
        return self.outer_relu(self.bn2(self.conv2(inner)))


class SingleBlock(nn.Module):
    """Conv-BN-ReLU: the odd convolution of a stage."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv3x3(num_in, num_out), nn.BatchNorm2d(num_out), nn.ReLU()

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h, w)."""
        return self.relu(self.bn(self.conv(x_nchw)))


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


class SmallImageNetwork(nn.Module):
    """A stem, stages of blocks, and a classifier.

    Args:
        architecture: block kind and counts.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels; a multiple of the network's total stride.
        in_channels: channels of the images.
        width: channels of the first stage.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, architecture: Architecture, *, num_classes: int, image_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        total_stride = 2 ** (len(architecture.convs_per_stage) - 1)
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
        preactivated = architecture.block.preactivated
        channels = architecture.stem_width or width
        self.stem_conv = conv3x3(in_channels, channels)
        self.stem_bn = nn.Identity() if preactivated else nn.BatchNorm2d(channels)
        self.stem_relu = nn.Identity() if preactivated else nn.ReLU()
        self.stages = nn.Sequential()
        for index, num_convs in enumerate(architecture.convs_per_stage):
            num_out = width * architecture.width_multiples[index]
            blocks: list[nn.Module] = []
            for number in range(num_convs // 2):
                blocks.append(architecture.block(channels, num_out, 2 if index and not number else 1))
                channels = num_out
            if num_convs % 2:
                blocks.append(SingleBlock(channels, num_out))
                channels = num_out
            self.stages.append(nn.Sequential(*blocks))
        owed = [nn.BatchNorm2d(channels), nn.ReLU()] if preactivated else []  # what the last block's sum still lacks
        final = nn.Sequential(*owed, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
        self.heads = nn.ModuleDict({"final": final})
        _draw_convolutions(self)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map normalised images (n, in_channels, image_size, image_size) to logits (n, classes)."""
        x = self.stages(self.stem_relu(self.stem_bn(self.stem_conv(x_nchw))))
        return self.heads["final"](x)


MODELS: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="resnet18", block=BasicBlock, convs_per_stage=(4, 4, 4, 4), width_multiples=(1, 2, 4, 8), default_width=64
        ),
        Architecture(
            name="resnet34", block=BasicBlock, convs_per_stage=(6, 8, 12, 6), width_multiples=(1, 2, 4, 8), default_width=64
        ),
        Architecture(
            name="wrn22-8",
            block=WideBlock,
            convs_per_stage=(6, 6, 6),
            width_multiples=(1, 2, 4),
            default_width=128,
            stem_width=16,
        ),
        # The first of the original's thirteen convolutions is the stem.
        Architecture(
            name="vgg16", block=PairBlock, convs_per_stage=(1, 2, 3, 3, 3), width_multiples=(1, 2, 4, 8, 8), default_width=64
        ),
    )
}
"""Architectures by name; adding an entry adds a model."""


def draw_weights(network: nn.Module) -> None:
    """Draw a network's weights from torch's generator as torch does, and convolutions as He et al. do for ReLUs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_parameters()
    _draw_convolutions(network)


def _draw_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # on "meta" torch would import its compiler first
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
