"""Tiny-ImageNet as its archive unpacks.

Owns that layout. Its own test/ has no labels, so val/ is the test part. Refuses to read an image.

    train/<wnid>/images/*.JPEG
    val/images/*.JPEG, val/val_annotations.txt     a line per image: name, wnid, and a box, with tabs between them
"""

from pathlib import Path

from raysp.data.listing import Entry, FolderError, Found, Listing, class_folders, no_image, number_classes, one_form, walk

NAME = "tiny-imagenet-200"
"""The archive's one directory."""
SIZE = 64
"""Height and width of its images in pixels."""


def list_tiny_imagenet(root: Path) -> Listing:
    """List the archive's images.

    Args:
        root: the directory that it unpacks to, or the one above it.

    Raises:
        FolderError: it is not that archive, or not whole.
    """
    root = root / NAME if (root / NAME).is_dir() else root
    train, annotations = root / "train", root / "val" / "val_annotations.txt"
    if not train.is_dir() or not annotations.is_file():
        raise FolderError(
            f"{root} has no {'val/val_annotations.txt' if train.is_dir() else 'train/'}; expected Tiny-ImageNet as its archive "
            "unpacks (a tree with a folder per class in train/ and val/ is given as imagefolder:PATH)"
        )
    walked = {folder: walk(folder) for folder in class_folders(train)}
    whole = Found()
    for found in walked.values():
        whole.add(found)
    if not whole.images:
        raise FolderError(no_image(train, whole))
    classes, labels = number_classes(train, walked)
    return Listing(
        root=root,
        classes=classes,
        parts={
            "train": tuple(Entry(file, labels[one_form(f.name)]) for f, found in walked.items() for file in sorted(found.images)),
            "test": _annotated(annotations, labels),
        },
        notes=tuple(filter(None, [whole.absent_told])),
    )


def _annotated(annotations: Path, labels: dict[str, int]) -> tuple[Entry, ...]:
    entries = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        if not name:
            continue
        wnid = rest.partition("\t")[0].strip()
        file = annotations.parent / "images" / name
        if wnid not in labels:
            raise FolderError(f"{annotations}, line {number}: class {wnid!r}, which train/ lacks; unpack the archive again")
        if not file.is_file():
            raise FolderError(f"{annotations}, line {number}: {file} is not here; unpack the archive again")
        entries.append(Entry(file, labels[wnid]))
    if not entries:
        raise FolderError(f"{annotations} names no image; unpack the archive again")
    return tuple(sorted(entries))
