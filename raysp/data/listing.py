"""What lies in an image folder of torchvision's layout: `train/<class>/*`, and `test/<class>/*` or `val/<class>/*`.

Owns which files are images of which class, what is passed over, and what is no image folder. Refuses to read a file. Contract:
links are followed, each real folder once in a class; names that start with a dot are passed over without a word, all else is
counted.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".jfif", ".jpe")
"""Those of torchvision's ImageFolder (importing it for them would cost every process 0.8 s and 160 MB), and two more names of
JPEG. What may hold several pictures (.gif), and what not every Pillow reads (.avif, .jp2, .heic), is passed over."""
PARTS = ("train", "test", "val")
KINDS_TOLD = 5
"""Of the kinds of files that are passed over, so many are named."""


class FolderError(ValueError):
    """An image folder can't be used."""


class ImageFile(Protocol):
    """What is asked of an image's file: a `Path`, or a row of a table that reads like one (`raysp.data.tables`)."""

    def read_bytes(self) -> bytes:
        """The image as it is encoded. Raises OSError."""

    def relative_to(self, root: Path, /) -> PurePath:
        """Its name among all of the data set."""

    def stat(self) -> os.stat_result:
        """Size, times and inode of what it lies in."""

    def __lt__(self, other: Any, /) -> bool:
        """Their order."""

    def __hash__(self) -> int: ...


class Entry(NamedTuple):
    """An image's file, and its class' number."""

    file: ImageFile
    label: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a tree, none of which was read."""

    root: Path
    classes: tuple[str, ...]
    """The training part's, in the order of labels."""
    parts: Mapping[str, tuple[Entry, ...]]
    """`train`, `test` and, where the tree has both val/ and test/, `val`; with val/ alone that is `test`. In the order in which
    they are trained on."""
    passed_over: str = ""
    """How many files of which kinds are no images, in words."""
    notes: tuple[str, ...] = ()
    """What else is odd, a sentence each: links to nowhere, folders that nothing reads."""


@dataclass
class Found:
    """What a walk through folders has met."""

    images: list[Path] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """By suffix."""
    absent: Counter[str] = field(default_factory=Counter)
    """Links to nowhere with an image's name, by suffix."""

    def add(self, other: "Found") -> None:
        """Take in what another walk has met."""
        self.images += other.images
        self.passed_over += other.passed_over
        self.absent += other.absent

    @property
    def passed_over_told(self) -> str:
        """`8 files passed over (6 .gif, 1 .avif, 1 without a suffix)`, or nothing."""
        total = self.passed_over.total()
        if not total:
            return ""
        kinds = [f"{count:,} {kind}" for kind, count in self.passed_over.most_common(KINDS_TOLD)]
        more = ["..."] if len(self.passed_over) > KINDS_TOLD else []
        return f"{total:,} file{'' if total == 1 else 's'} passed over ({', '.join(kinds + more)})"

    @property
    def absent_told(self) -> str:
        """`12 .png names are links to files that are not here ...`, or nothing."""
        if not self.absent:
            return ""
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in self.absent.most_common())
        names = "name is a link to a file that is" if self.absent.total() == 1 else "names are links to files that are"
        return f"{kinds} {names} not here (git-annex, DVC?): fetch them"


def list_folder(root: Path) -> Listing:
    """List a tree.

    Raises:
        FolderError: it is missing, has no images, one class only, or classes in test/ or val/ that train/ lacks.
    """
    parts = _parts(root)
    folders = {part: class_folders(path) for part, path in parts.items()}
    known = {one_form(folder.name) for folder in folders["train"]}
    for part, path in parts.items():
        if not folders[part]:
            raise FolderError(f"{path} has no class folders; expected one folder of images per class")
        if extra := sorted({_and_its_like(folder.name, known) for folder in folders[part] if one_form(folder.name) not in known}):
            raise FolderError(
                f"{path} has classes that {parts['train']} lacks: {', '.join(extra[:5])}; add them there or remove them"
                f"{_hint(root)}"
            )
    walked = {folder: walk(folder) for of_part in folders.values() for folder in of_part}
    for part, path in parts.items():
        whole = Found()
        for folder in folders[part]:
            whole.add(walked[folder])
        if not whole.images:
            raise FolderError(no_image(path, whole))
    classes, labels = number_classes(parts["train"], {folder: walked[folder] for folder in folders["train"]})
    found = Found()
    for part, path in parts.items():
        for folder in folders[part]:
            found.add(walked[folder])
        found.add(_beside(path))
    return Listing(
        root=root,
        classes=classes,
        parts={
            part: tuple(
                Entry(file, labels[one_form(folder.name)]) for folder in folders[part] for file in sorted(walked[folder].images)
            )
            for part in parts
        },
        passed_over=found.passed_over_told,
        notes=tuple(filter(None, (found.absent_told, _unread(root, parts)))),
    )


def number_classes(train: Path, walked: Mapping[Path, Found]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes in the order of their labels, and the labels by the names' one form.

    Args:
        train: the directory of the training part.
        walked: what each of its class folders holds.

    Raises:
        FolderError: a class has no images, or there is one class only.
    """
    classes: dict[str, str] = {}
    for folder in sorted(walked, key=lambda folder: folder.name):
        classes.setdefault(one_form(folder.name), folder.name)
    for form, name in classes.items():
        held = Found()
        for folder, found in walked.items():
            if one_form(folder.name) == form:
                held.add(found)
        if not held.images:
            raise FolderError(no_image(train / name, held))
    if len(classes) < 2:
        raise FolderError(f"{train} has one class only; expected at least 2")
    return tuple(classes.values()), {form: number for number, form in enumerate(classes)}


def one_form(name: str) -> str:
    """A class' name in Unicode's composed form: a copy by way of a Mac may hold the decomposed one, which looks the same."""
    return unicodedata.normalize("NFC", name)


def no_image(directory: Path, found: Found) -> str:
    """The message about a directory without images, with what it holds in their place."""
    told = "; ".join(filter(None, (found.absent_told, found.passed_over_told)))
    told = told and f": {told}"
    return f"{directory} holds no image{told}; expected files ending in {', '.join(EXTENSIONS)}"


def class_folders(directory: Path) -> list[Path]:
    """Folders in a directory, and links to folders, in the order of their paths."""
    return sorted(each for each in directory.iterdir() if each.is_dir() and not each.name.startswith("."))


def walk(top: Path) -> Found:
    """Find the images below a folder, at any depth.

    Linked folders are followed as torchvision does, but each real folder is taken once, and none that holds `top` itself: that
    would never end, or take other classes' images for this one's.

    Raises:
        FolderError: a folder can't be read.
    """
    found, seen = Found(), set()
    above = {_identity(path) for path in (top.resolve(), *top.resolve().parents)}
    waiting = [top]
    while waiting:
        links: list[Path] = []
        for folder, subfolders, names in os.walk(waiting.pop(0), onerror=_refuse):
            here = _identity(Path(folder))
            if here in seen:
                subfolders.clear()
                continue
            seen.add(here)
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            links += [path for name in sorted(subfolders) if (path := Path(folder, name)).is_symlink()]
            for name in names:
                if not name.startswith("."):
                    _sort(Path(folder, name), found)
        for link in links:
            if _identity(link) in above:
                found.passed_over["linked in a circle"] += 1
            else:
                waiting.append(link)
    return found


def _sort(file: Path, found: Found) -> None:
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS and file.is_file():
        found.images.append(file)
    elif suffix in (*EXTENSIONS, "") and file.is_symlink() and not file.exists():
        found.absent[suffix or "suffixless"] += 1
    elif suffix not in EXTENSIONS:
        found.passed_over[suffix or "without a suffix"] += 1
    else:  # a pipe, a device
        found.passed_over[f"{suffix} that is no file"] += 1


def _beside(part: Path) -> Found:
    """What lies in a part itself, and so in no class: files, and links to folders that are not here."""
    inside = Found()
    for each in part.iterdir():
        if not each.name.startswith(".") and not each.is_dir():
            _sort(each, inside)
    kinds = inside.passed_over + Counter(image.suffix.lower() for image in inside.images)
    return Found(
        passed_over=Counter({f"{kind} in no class folder": count for kind, count in kinds.items()}), absent=inside.absent
    )


def _parts(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        found = f"{root} is a file" if root.exists() else f"no directory {root}"
        raise FolderError(f"{found}; expected an image folder with train/ and test/ or val/")
    train, test, val = (root / name for name in PARTS)
    if not _has_parts(root):
        held = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        near = next(filter(_seems_to_have_parts, (*class_folders(root), root.parent)), None)
        meant = f"; {near} has them: give that" if near else ""
        raise FolderError(
            f"{root} holds {held}; expected train/ and test/ or val/ with a folder of images per class in each{meant}"
        )
    parts = {"train": train, "test": test if test.is_dir() else val}
    if test.is_dir() and val.is_dir():
        parts["val"] = val
    return parts


def _has_parts(root: Path) -> bool:
    train, *others = ((root / name).is_dir() for name in PARTS)
    return train and any(others)


def _seems_to_have_parts(root: Path) -> bool:
    try:
        return _has_parts(root)
    except OSError:  # it can't be entered, such as a disk's lost+found
        return False


def _unread(root: Path, parts: Mapping[str, Path]) -> str:
    """A sentence about folders beside the parts, such as Kaggle's valid/."""
    names = [folder.name for folder in class_folders(root) if folder not in parts.values()]
    if not names:
        return ""
    return f"{', '.join(names[:KINDS_TOLD])} in {root}: not read; the parts are called train, test and val"


def _and_its_like(name: str, known: set[str]) -> str:
    """A class' name, with the one that differs only in capitals if there is one."""
    like = next((other for other in sorted(known) if other.casefold() == one_form(name).casefold()), None)
    return name if like is None else f"{name} (which has {like})"


def _hint(root: Path) -> str:
    if (root / "val" / "val_annotations.txt").is_file():
        return f"; if this is Tiny-ImageNet as it unpacks, give it as tiny-imagenet:{root}"
    return ""


def _identity(directory: Path) -> tuple[int, int]:
    try:
        status = directory.stat()
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise FolderError(f"{error.filename} can't be read: {error.strerror}")
