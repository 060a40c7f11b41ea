"""Classifier heads: the final one and the auxiliary classifiers (AC) after earlier stages.

Owns what a head is made of. The paper places an AC as in self-distillation but does not specify it; the ReLU reduction of its
Table 2 leaves room for next to no ReLU in it. So an auxiliary head has none where it can, and few where it needs some.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from raysp.models.relu import MaskedReLU

FINAL = "final"
"""Name of the exit at the network's end; an AC after stage s is named `ac<s>`."""

GRID = 4
"""Rows and columns that a `grid` head averages a map to, where the map's size lets it."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """Where a head stands."""

    channels: int
    """Of the map that it reads."""
    size: int
    """Height and width of that map."""
    last_channels: int
    """Of the network's last map."""
    last_size: int
    """Height and width of the network's last map."""
    num_classes: int
    preactivated: bool
    """Whether the map still lacks its batch norm and ReLU."""


def pool_head(shape: HeadShape) -> nn.Sequential:
    """Global average pool and a linear layer. On a pre-activated network's map a batch norm comes first, and no ReLU."""
    norm = [nn.BatchNorm2d(shape.channels)] if shape.preactivated else []
    return nn.Sequential(*norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape.channels, shape.num_classes))


def grid_size(size: int) -> int:
    """Rows and columns of the grid that a map is averaged to: the divisor of its size that is nearest to `GRID`, as a ratio.

    Cells of one size are what every engine and export format can average. Maps of 16, 8 and 4 give 4.

    Args:
        size: height and width of the map, at least 1.
    """
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(math.log(n / GRID)))


def grid_head(shape: HeadShape) -> nn.Sequential:
    """Average over the cells of a small grid, and a linear layer of all cells. Before it on a pre-activated network's map a batch
    norm, and no ReLU.

    A global average throws away where a feature is, which no linear layer brings back. In a network's last map place hardly
    matters any more; in an earlier one it does.
    """
    norm = [nn.BatchNorm2d(shape.channels)] if shape.preactivated else []
    grid = grid_size(shape.size)
    pool = [nn.AvgPool2d(shape.size // grid)] if grid < shape.size else []
    return nn.Sequential(*norm, *pool, nn.Flatten(), nn.Linear(shape.channels * grid**2, shape.num_classes))


def bottleneck_head(shape: HeadShape) -> nn.Sequential:
    """1x1, strided kxk and 1x1 convolution down to the shape of the network's last map, then pool and linear.

    After self-distillation's bottleneck (arXiv 1905.08094): k is the stride, and a quarter of the last map's channels lie
    between. Of its ReLUs only the one after the strided convolution is kept, where positions are fewest: 2,048 in ResNet18 at
    32x32.
    """
    middle = max(1, shape.last_channels // 4)
    stride = max(1, shape.size // shape.last_size)
    kernel = shape.size - (shape.last_size - 1) * stride
    norm = [nn.BatchNorm2d(shape.channels)] if shape.preactivated else []
    return nn.Sequential(
        *norm,
        nn.Conv2d(shape.channels, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.Conv2d(middle, middle, kernel, stride=stride, bias=False),
        nn.BatchNorm2d(middle),
        MaskedReLU((middle, shape.last_size, shape.last_size), inplace=True),
        nn.Conv2d(middle, shape.last_channels, 1, bias=False),
        nn.BatchNorm2d(shape.last_channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(shape.last_channels, shape.num_classes),
    )


AC_HEADS: dict[str, Callable[[HeadShape], nn.Sequential]] = {
    "pool": pool_head,
    "bottleneck": bottleneck_head,
    "grid": grid_head,
}
"""Heads that an auxiliary classifier can have. The last module of each is its linear layer."""


def exit_name(after_stage: int) -> str:
    """Name of the auxiliary classifier after a stage, counted from 1."""
    return f"ac{after_stage}"


def exit_of(exits: Iterable[str], wanted: str | None) -> str:
    """The exit that a user means: the one named, else the final one, else the first.

    Args:
        exits: those of a model.
        wanted: its name, or None.

    Raises:
        ValueError: the model has none of this name.
    """
    names = list(exits)
    if wanted is None:
        return FINAL if FINAL in names else names[0]
    if wanted not in names:
        raise ValueError(f"no exit {wanted!r}; the model has {', '.join(names)}: name one of them as exit")
    return wanted


def stage_of(exit: str) -> int:  # noqa: A002 (the field's word)
    """The stage after which an auxiliary classifier stands; the inverse of `exit_name`."""
    return int(exit.removeprefix("ac"))
