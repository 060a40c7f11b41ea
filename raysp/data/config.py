"""What a data set is: the part of a stage's identity that is about images.

Owns `DataConfig`. Refuses to know where images lie, or to read any (`raysp.data.sources`). Contract: a data configuration names
its content, by a well-known name or by a fingerprint of the files, never by where it lies.
"""

from dataclasses import dataclass
from typing import Literal

from raysp.store.keys import Config, added

MAX_IMAGE_SIZE = 1024
"""Largest height and width in pixels; the networks are made for small images."""

Selection = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images a stage sees, and how training varies them.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    name: str
    """`digits`, `cifar10`, `cifar100`, `imagefolder`, `tiny-imagenet` or `huggingface`."""
    fingerprint: str = ""
    """Digest of the files, for data sets that a name alone doesn't pin down."""
    num_classes: int
    """Classes in the training part."""
    channels: int = 3
    """Channels of the images."""
    image_size: int
    """Height and width in pixels; images of another size are resized."""
    selection: Selection = "val"
    """Part that chooses the best epoch. `val` is held out of the training part, unless the data bring one; `test` holds nothing
    out and chooses by the very part whose accuracy is reported, as the paper does."""
    val_fraction: float = 0.1
    """Share of the training part held out for validation, in (0, 1); unused where the data bring a validation part, or where the
    test part selects."""
    crop_padding: int = 4
    """Training images are padded by this many pixels and cropped at random, at least 0."""
    flip: bool = True
    """Training images are mirrored left to right half of the time."""
    depth: int = added(16)
    """Bits that the 16-bit images of a folder use, 8 to 16; the upper 8 of them are trained on."""
    every_class_kept: bool = added(False)
    """Where holding out at random would take a class' last training images, one stays, and another class gives one more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"image size {self.image_size}; expected 1 to {MAX_IMAGE_SIZE} pixels")
        if self.crop_padding < 0 or not 0 < self.val_fraction < 1:
            raise ValueError(
                f"crop padding {self.crop_padding}, validation share {self.val_fraction:g}; expected at least 0 pixels and a "
                "share between 0 and 1"
            )
        if not 8 <= self.depth <= 16:
            raise ValueError(f"a depth of {self.depth} bits; expected 8 to 16")

    @property
    def label(self) -> str:
        """What tables call it: the name, with the start of the fingerprint if it has one."""
        return f"{self.name}:{self.fingerprint[:8]}" if self.fingerprint else self.name
