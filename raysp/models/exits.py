"""Classifier heads: the final one and the auxiliary classifiers (AC) after earlier stages.

Owns what a head is made of. The paper places an AC as in self-distillation but does not specify it.
"""

from collections.abc import Callable

from torch import nn

from raysp.models.relu import MaskedReLU

FINAL = "final"
"""Name of the exit at the network's end; an AC after stage s is named `ac<s>`."""


def pool_head(num_in: int, num_classes: int, size: int) -> nn.Sequential:
    """Global average pool and a linear layer: the network's own kind of classifier.

    Args:
        num_in: channels of the map it reads.
        num_classes: classes.
        size: height and width of that map.
    """
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_in, num_classes))


def activated_pool_head(num_in: int, num_classes: int, size: int) -> nn.Sequential:
    """`pool_head` behind a batch norm and a ReLU, which a pre-activated network still owes its last map."""
    return nn.Sequential(nn.BatchNorm2d(num_in), MaskedReLU((num_in, size, size)), *pool_head(num_in, num_classes, size))


HeadBuilder = Callable[[int, int, int], nn.Sequential]

AC_HEADS: dict[str, dict[bool, HeadBuilder]] = {"pool": {False: pool_head, True: activated_pool_head}}
"""Heads that an auxiliary classifier can have, by name and by whether the network is pre-activated."""
