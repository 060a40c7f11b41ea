"""What must be known of every file of an image folder before anything is decoded for good: its digest, and what is odd about it.

Owns reading all files once. Contract: what `raysp.data.pictures` would do to a picture beyond squashing it can be told from its
facts; a plain JPEG or PNG costs a digest and no more.
"""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from raysp.data.listing import ImageFile
from raysp.data.pictures import deep_colours, is_deep, is_transparent, quiet, turn_of

Tell = Callable[[int, int], None]
"""Told how many files of how many have been read."""
TOLD_AFTER_S = 1.0
"""Seconds until a reading says how far it is, and between two such words."""

BUNDLE = 16
"""Files that a thread looks at in one go: handing out 100,000 of them one by one takes seconds."""

_NOT_HERE = {
    b"version https://git-lfs": "a Git LFS pointer; git lfs pull",
    b"/annex/objects/": "a git-annex pointer; git annex get",
    b"<!doctype html": "an HTML page, as a failed download leaves one",
    b"<html": "an HTML page, as a failed download leaves one",
}
"""What files hold in place of an image, by how it starts (in small letters)."""


class Facts(NamedTuple):
    """What is known of a file."""

    digest: str
    """sha256 of its bytes, in hex; empty where it couldn't be read."""
    broken: str = ""
    """Why it is no image, as far as its start tells."""
    turned: bool = False
    """Its EXIF orientation turns it."""
    transparent: bool = False
    """Some of its pixels are not opaque."""
    peak: int = -1
    """The largest value of a picture of 16 bits, of its colours if it has some; -1 for all others, and for colours in TIFF."""


def facts_of(files: Sequence[ImageFile], look: Callable[[ImageFile], Facts], tell: Tell | None = None) -> list[Facts]:
    """Look at files, several at once.

    Args:
        files: in any order.
        look: what looks at one of them; `look`, or one that remembers.
        tell: called about once a second, from the first on, and then at the end once more; in this thread.
    """
    told, is_told = time.monotonic(), False
    bundles = [files[start : start + BUNDLE] for start in range(0, len(files), BUNDLE)]
    found: list[Facts] = []
    with quiet(), ThreadPoolExecutor() as pool:
        for facts in pool.map(lambda bundle: [look(file) for file in bundle], bundles):
            found += facts
            if tell and len(found) < len(files) and time.monotonic() - told >= TOLD_AFTER_S:
                told, is_told = time.monotonic(), True
                tell(len(found), len(files))
    if tell and is_told:
        tell(len(found), len(files))
    return found


def look(file: ImageFile) -> Facts:
    """Read one file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        return Facts("", f"can't be read: {error.strerror}")
    digest = hashlib.sha256(content).hexdigest()
    if why := in_its_place(content):
        return Facts(digest, why)
    if _is_plain(content):
        return Facts(digest)
    try:
        with Image.open(io.BytesIO(content)) as picture:
            turned = turn_of(picture) is not None
            deep = np.asarray(picture) if is_deep(picture) else deep_colours(picture, content)
            peak = -1 if deep is None else int(deep.max())
            return Facts(digest, turned=turned, transparent=is_transparent(picture), peak=peak)
    except MemoryError:
        raise
    except Exception as error:  # on damaged files, Pillow's readers raise what they please
        return Facts(digest, told(error))


def told(error: Exception) -> str:
    """Why a picture can't be decoded."""
    text = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its message has the file's name, or an object's address
        return "no image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than are opened, {2 * (Image.MAX_IMAGE_PIXELS or 0):,}"
    return "cut short" if "truncated" in text.lower() or "unexpected end" in text.lower() else text


def in_its_place(content: bytes) -> str:
    """What a file holds that should hold something else, by its start; empty where that tells nothing."""
    if not content:
        return "empty"
    start = content[:256].lstrip().lower()
    for sign, why in _NOT_HERE.items():
        if start.startswith(sign):
            return why
    return "nothing but zeros" if not content.strip(b"\0") else ""


def _is_plain(content: bytes) -> bool:
    """Whether a file is surely a JPEG or PNG that needs no more than a squash, by signs that don't take a look at its inside.

    A sign may stand in a file by chance; then Pillow has a look at it.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return b"Exif\0\0" not in content and b"Orientation" not in content
    if content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR":
        bits, colour = content[24:25], content[25:26]
        plain = bits != b"\x10" and colour in (b"\0", b"\2", b"\3")
        return plain and not any(sign in content for sign in (b"tRNS", b"eXIf", b"Raw profile", b"adobe.xmp"))
    return False
