"""From a picture, as Pillow opens it, to the pixels that a network is trained on.

Owns everything that turns a file into numbers: orientation, transparency, 16 bits, the squash to a square. Contract: what is said
here to whoever deploys a model (`PREPARATION`) is what is done here.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

BACKGROUND = 128
"""Grey level, of 255, that transparent areas are put on: a white mark can be seen on it, and so can a black one."""
FULL_DEPTH = 16
"""Bits of a 16-bit image that uses all of them."""
PREPARATION = {
    "sixteen_bits": "shifted down to 8; where the training data's configuration in the recipe has a depth, by depth - 8",
    "transparent_areas": f"on grey, {BACKGROUND} of 255",
    "colour": "RGB, in this order",
    "turned": "as the file's EXIF orientation says (Pillow's ImageOps.exif_transpose)",
    "resized": (
        "to height x width by squashing, without cropping, by Pillow's bilinear filter, which is antialiased: "
        "image.resize((width, height), Image.Resampling.BILINEAR). OpenCV's and torch's plain bilinear are other filters"
    ),
    "axes": "images, channels, height, width",
    "range": "bytes divided by 255",
}
"""What is done to a picture, step by step as `to_array` does it, for a model's card."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From EXIF's orientation to the turn that undoes it, as Pillow's ImageOps has it."""


_LOWER_BYTES = {("RGB", "RGB;16B"): "RGB;16L", ("RGBA", "RGBA;16B"): "RGBA;16L", ("RGBA", "LA;16B"): "RGBA"}
"""Of PNGs with 16 bits a colour Pillow takes the upper bytes. By its mode and what it unpacks: what unpacks the lower ones.
Of grey with alpha that is every byte, grey's lower one as the second."""


def to_array(image: Any, image_size: int, depth: int = FULL_DEPTH, content: bytes = b"") -> npt.NDArray[np.uint8]:
    """Turn a PIL image, or an array (h, w) or (h, w, 3), into uint8 (3, image_size, image_size), resized if need be.

    Args:
        image: the picture; not loaded yet if it is to be turned as its file says.
        image_size: pixels.
        depth: bits that a 16-bit image uses, 8 to 16; the upper 8 of them are taken.
        content: the picture's file; where it is given, `depth` counts for PNGs of 16 bits a colour, too.

    Raises:
        ValueError: pixels of 32 bits or floats, whose range isn't known.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    turn = turn_of(picture)
    colours = deep_colours(picture, content) if depth < FULL_DEPTH else None
    if colours is not None:
        alpha = picture.convert("RGBA").getchannel("A")
        picture = Image.fromarray(np.minimum(colours >> (depth - 8), 255).astype(np.uint8))
        picture.putalpha(alpha)
    if is_deep(picture):  # Pillow would clip 16 bits to 8 instead of scaling them
        picture = Image.fromarray(np.minimum(np.asarray(picture) >> (depth - 8), 255).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        kind = "floats" if picture.mode == "F" else "signed, or of 32 bits"
        raise ValueError(f"its pixels are {kind}, whose range isn't known; expected 8 or 16 bits a channel, without a sign")
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (BACKGROUND,) * 3 + (255,)), picture)
    picture = picture.convert("RGB")
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def turn_of(picture: Image.Image) -> Image.Transpose | None:
    """How a picture is to be turned to lie as it is shown; None for one that lies so. Pillow itself turns TIFFs."""
    if picture.format == "TIFF":
        return None
    try:
        # PNG's own getexif decodes all pixels, to find what may stand behind them.
        return _TURNS.get(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # of damaged EXIF, by which no viewer turns anything either
        return None


def is_deep(picture: Image.Image) -> bool:
    """Whether a picture has 16 bits a pixel."""
    return picture.mode.startswith("I;16")


def deep_colours(picture: Image.Image, content: bytes) -> npt.NDArray[np.uint16] | None:
    """A PNG's colours with all their 16 bits, (h, w, 3); None for other pictures.

    Args:
        picture: not loaded yet; then Pillow has the upper bytes of it.
        content: its file.
    """
    if not content or not isinstance(picture, PngImageFile) or not picture.tile:
        return None
    codec, extents, offset, unpacked = picture.tile[0]
    lower = _LOWER_BYTES.get((picture.mode, str(unpacked)))
    if lower is None:
        return None
    with PngImageFile(io.BytesIO(content)) as again:
        again.tile = [(codec, extents, offset, lower)]  # type: ignore[list-item] # as Pillow took them before it named the parts
        low = np.asarray(again)[..., :3].astype(np.uint16)
    if unpacked == "LA;16B":
        low = np.repeat(low[..., 1:2], 3, axis=2)
    found: npt.NDArray[np.uint16] = np.asarray(picture)[..., :3].astype(np.uint16) << np.uint16(8) | low
    return found


def is_transparent(picture: Image.Image) -> bool:
    """Whether any of a picture's pixels is not opaque. Decodes it if it could be."""
    return not is_deep(picture) and picture.has_transparency_data and _least_alpha(picture) < 255


def _least_alpha(picture: Image.Image) -> int:
    least: int = np.asarray(picture.convert("RGBA").getchannel("A")).min()
    return int(least)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings (large pictures, palettes, odd EXIF) from the terminal; errors stay errors.

    Filters are the whole process', so one `with` around a pool of threads does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
