"""What the user should know of an image folder before anything trains on it.

Owns the sentences. Refuses to look at files: all that is said follows from their facts (`raysp.data.facts`) and the split.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from raysp.data.imagefolder import Folder
from raysp.data.pictures import BACKGROUND, FULL_DEPTH

FEW = 3
"""Names of classes that are given as examples."""


class _Known(NamedTuple):
    name: str
    label: int
    digest: str


def notes_of(folder: Folder, split: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Sentences about a folder.

    Args:
        folder: its files.
        split: numbers of the training part's images that are trained on ("train") and, if any are, held out ("val").
    """
    yield from folder.listing.notes
    facts = [facts for of_part in folder.facts.values() for facts in of_part]
    if turned := sum(each.turned for each in facts):
        yield f"{_images(turned)} turned as the EXIF orientation says"
    if transparent := sum(each.transparent for each in facts):
        yield f"transparent areas of {transparent:,} image{_s(transparent)} are put on grey ({BACKGROUND} of 255)"
    if folder.depth < FULL_DEPTH:
        deep = sum(each.peak >= 0 for each in facts)
        yield f"no pixel of {deep:,} 16-bit image{_s(deep)} uses more than {folder.depth} bits: the upper 8 of these are taken"
    if single := _single(folder, split):
        names = ", ".join(single[:FEW]) + (", ..." if len(single) > FEW else "")
        yield f"{len(single):,} class{'es have' if len(single) > 1 else ' has'} one image to learn from: {names}"
    for part in ("test", "val"):
        yield from _absent(folder, part)
    known = _known(folder)
    for part, other in (("test", "train"), ("val", "train"), ("test", "val")):
        if part in known and other in known:
            yield from _copies(part, known[part], other, known[other])
    if "val" in split:
        held, kept = ([known["train"][row] for row in split[part]] for part in ("val", "train"))
        yield from _copies("val", held, "train", kept)


def _absent(folder: Folder, part: str) -> Iterator[str]:
    """Classes that are trained on, and of which a part has no image."""
    present, trained = ({entry.label for entry in folder.listing.parts.get(name, ())} for name in (part, "train"))
    names = [folder.listing.classes[label] for label in sorted(trained - present)]
    if present and names:
        some = ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")
        lack = "has" if len(names) == 1 else "have"
        yield f"{len(names):,} of {len(folder.listing.classes):,} classes {lack} no {_TOLD[part]} image: {some}"


def _known(folder: Folder) -> dict[str, list[_Known]]:
    known = {}
    for part, entries in folder.listing.parts.items():
        names = (entry.file.relative_to(folder.listing.root).as_posix() for entry in entries)
        rows = zip(names, entries, folder.facts[part], strict=True)
        known[part] = [_Known(name, entry.label, facts.digest) for name, entry, facts in rows]
    return known


def _single(folder: Folder, split: Mapping[str, Sequence[int]]) -> list[str]:
    """Classes of which one image is trained on."""
    entries = folder.listing.parts["train"]
    counts = [0] * len(folder.listing.classes)
    for row in split["train"]:
        counts[entries[row].label] += 1
    return [name for name, count in zip(folder.listing.classes, counts, strict=True) if count == 1]


_TOLD = {"train": "training", "val": "validation", "test": "test"}


def _copies(part: str, images: Sequence[_Known], other: str, others: Sequence[_Known]) -> Iterator[str]:
    """What is in two parts, byte for byte."""
    labels: dict[str, set[int]] = {}
    for each in others:
        labels.setdefault(each.digest, set()).add(each.label)
    copies = [each for each in images if each.digest in labels]
    if not copies:
        return
    first = copies[0]
    twin = next(each for each in others if each.digest == first.digest)
    elsewhere = sum(each.label not in labels[each.digest] for each in copies)
    told = f", {elsewhere:,} of them under another class" if elsewhere else ""
    flattered = "test" if part == "test" else "validation"
    yield (
        f"{len(copies):,} of {len(images):,} {_TOLD[part]} images are copies of {_TOLD[other]} images, byte for byte{told}, such "
        f"as {first.name} of {twin.name}: {flattered} accuracy flatters"
    )


def _images(count: int) -> str:
    return f"{count:,} image{' is' if count == 1 else 's are'}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
