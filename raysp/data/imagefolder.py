"""Image folders as data sets: what all their files amount to, and their images in memory.

Owns the fingerprint and decoding. Contract: the fingerprint is of the files' names and bytes, and of how they are read where that
is not as it always was; it is not of where the tree lies. Every problem names the file or directory that has it, and all files
that can't be read are named at once.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from raysp.data.facts import Facts, Tell, facts_of, look, told
from raysp.data.listing import Entry, FolderError, ImageFile, Listing
from raysp.data.pictures import FULL_DEPTH, quiet, to_array
from raysp.data.remembered import Remembered

BROKEN_NAMED = 10
"""Of the files that can't be read, about so many are named: at least one of each kind."""


Decoded = dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """An image folder of which every file has been read once, and none is known to be broken."""

    listing: Listing
    facts: Mapping[str, Sequence[Facts]]
    """By part, one for each of the listing's entries."""

    @cached_property
    def depth(self) -> int:
        """Bits that the pictures of 16 bits use, at least 8; 16 where there are none, or one of them uses all."""
        peak = max((facts.peak for facts in self._all()), default=-1)
        return FULL_DEPTH if peak < 0 else max(peak.bit_length(), 8)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every image's relative path and content, and over what is done to some image beyond squashing it.

        The latter came later: folders whose images need none of it have the fingerprint that they always had.
        """
        digest = hashlib.sha256()
        for part, entries in self.listing.parts.items():
            for entry, facts in zip(entries, self.facts[part], strict=True):
                name = entry.file.relative_to(self.listing.root).as_posix()
                digest.update(f"{name}\0".encode("utf-8", "surrogateescape") + bytes.fromhex(facts.digest))
        done = [
            *(["turned"] if any(facts.turned for facts in self._all()) else ()),
            *(["on grey"] if any(facts.transparent for facts in self._all()) else ()),
            *([f"{self.depth} bits"] if self.depth < FULL_DEPTH else ()),
        ]
        if done:
            digest.update(f"\0{', '.join(done)}".encode())  # no image's path is empty
        return digest.hexdigest()

    def _all(self) -> Iterator[Facts]:
        return (facts for of_part in self.facts.values() for facts in of_part)


def scan(listing: Listing, tell: Tell | None = None) -> Folder:
    """Read every file of a tree once, or remember it from an earlier time.

    Args:
        listing: the tree's images.
        tell: called about once a second with how many files of how many are read.

    Raises:
        FolderError: files that are no images; they are named together with all that can't be decoded.
    """
    files = [entry.file for entries in listing.parts.values() for entry in entries]
    known = Remembered(listing.root, look)
    facts = facts_of(files, known, tell)
    known.keep()
    if broken := {file: of_file.broken for file, of_file in zip(files, facts, strict=True) if of_file.broken}:
        whole = [file for file in files if file not in broken]
        broken |= _tried(whole, lambda row: _open(whole[row], 1, FULL_DEPTH))
        raise FolderError(_refusal(listing.root, {file: broken[file] for file in files if file in broken}))
    each = iter(facts)
    return Folder(listing=listing, facts={part: [next(each) for _ in entries] for part, entries in listing.parts.items()})


def decode(root: Path, parts: Mapping[str, Sequence[Entry]], image_size: int, depth: int) -> Decoded:
    """Decode images as RGB of `image_size` pixels.

    Args:
        root: the tree's.
        parts: files in it, and labels, by part.
        image_size: pixels.
        depth: see `Folder.depth`.

    Returns:
        By part: images (n, 3, size, size) uint8 and labels (n,).

    Raises:
        FolderError: unreadable images, of all parts.
    """
    decoded: Decoded = {}
    broken: dict[ImageFile, str] = {}
    for part, entries in parts.items():
        images = np.empty((len(entries), 3, image_size, image_size), dtype=np.uint8)
        files = [entry.file for entry in entries]
        broken |= _tried(files, partial(_fill, images, files, depth))
        decoded[part] = images, np.asarray([entry.label for entry in entries], dtype=np.int64)
    if broken:
        raise FolderError(_refusal(root, dict(sorted(broken.items()))))
    return decoded


def _fill(images: npt.NDArray[np.uint8], files: Sequence[ImageFile], depth: int, row: int) -> None:
    images[row] = _open(files[row], images.shape[-1], depth)


def _open(file: ImageFile, image_size: int, depth: int) -> npt.NDArray[np.uint8]:
    content = file.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        return to_array(picture, image_size, depth, content)


def _tried(files: Sequence[ImageFile], act: Callable[[int], object]) -> dict[ImageFile, str]:
    """Do something with each file's number, several at once; returns why it failed, for those where it did."""

    def why(row: int) -> str:
        try:
            act(row)
        except MemoryError:
            raise
        except Exception as error:  # on damaged files, Pillow's readers raise what they please
            return told(error)
        return ""

    with quiet(), ThreadPoolExecutor() as pool:
        return {file: reason for file, reason in zip(files, pool.map(why, range(len(files))), strict=True) if reason}


def _refusal(root: Path, broken: Mapping[ImageFile, str]) -> str:
    """The message about files that are no images: a line per kind, with the first of their names."""
    if len(broken) == 1:
        ((file, why),) = broken.items()
        return f"{file} is not a readable image ({why}); remove or replace it"
    kinds = list(dict.fromkeys(broken.values()))
    most, lines = max(BROKEN_NAMED // len(kinds), 1), []
    for why in kinds:
        files = [file.relative_to(root).as_posix() for file, its in broken.items() if its == why]
        more = f" and {len(files) - most:,} more" if len(files) > most else ""
        lines.append(f"\n  {len(files):,} x {why}: {', '.join(files[:most])}{more}")
    return f"{len(broken):,} files in {root} are not readable images; remove or replace them:{''.join(lines)}"
