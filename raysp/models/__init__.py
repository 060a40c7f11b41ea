"""The networks, by name."""

from raysp.models.blocks import BasicBlock, WideBlock
from raysp.models.network import Architecture, Network

MODELS: dict[str, Architecture] = {
    "resnet18": Architecture(block=BasicBlock, blocks_per_stage=(2, 2, 2, 2), default_width=64, stem_width=None),
    "wrn22-8": Architecture(block=WideBlock, blocks_per_stage=(3, 3, 3), default_width=128, stem_width=16),
}
"""Architectures by name; adding an entry adds a model."""


def build_model(name: str, *, num_classes: int, image_size: int = 32, in_channels: int = 3, width: int | None = None) -> Network:
    """Build a network with random weights from torch's generator.

    Args:
        name: a key of `MODELS`.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels.
        in_channels: channels of the images.
        width: channels of the first residual stage; None takes the model's own (64 for resnet18, 128 for wrn22-8).

    Raises:
        ValueError: unknown name, or an argument out of range.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    return Network(MODELS[name], num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)
