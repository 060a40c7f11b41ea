"""The networks, by name; their masks, gates and exits, and what they cost."""

from raysp.models.network import Architecture, Network
from raysp.models.residual import BasicBlock, WideBlock
from raysp.models.vgg import PairBlock

MODELS: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="resnet18",
            block=BasicBlock,
            convs_per_stage=(4, 4, 4, 4),
            width_multiples=(1, 2, 4, 8),
            default_width=64,
        ),
        Architecture(
            name="resnet34",
            block=BasicBlock,
            convs_per_stage=(6, 8, 12, 6),
            width_multiples=(1, 2, 4, 8),
            default_width=64,
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
            name="vgg16",
            block=PairBlock,
            convs_per_stage=(1, 2, 3, 3, 3),
            width_multiples=(1, 2, 4, 8, 8),
            default_width=64,
        ),
    )
}
"""Architectures by name; adding an entry adds a model."""


def architecture(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        ValueError: unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def build_model(name: str, *, num_classes: int, image_size: int = 32, in_channels: int = 3, width: int | None = None) -> Network:
    """Build a network with random weights from torch's generator.

    Args:
        name: a key of `MODELS`.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels.
        in_channels: channels of the images.
        width: channels of the first stage; None takes the model's own (128 for wrn22-8, 64 for the others).

    Raises:
        ValueError: unknown name, or an argument out of range.
    """
    return Network(architecture(name), num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)
