"""Data sets that are folders of files: their layouts, their configuration, and which files are of which part.

Owns what is held out of a folder. Contract: the same files and the same configuration give the same arrays in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from raysp.data.config import DataConfig, Selection
from raysp.data.facts import Tell
from raysp.data.huggingface import Columns, list_huggingface
from raysp.data.imagefolder import Decoded, Folder, decode, scan
from raysp.data.listing import FolderError, Listing, list_folder
from raysp.data.splitting import held_out, labels_of, takes_a_class
from raysp.data.tiny_imagenet import SIZE, list_tiny_imagenet
from raysp.store.paths import user_path

HUGGINGFACE = "huggingface"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    size: int
    """Pixels that images get unless others are asked for."""
    list_files: Callable[[str, Columns], Listing]


LAYOUTS = {
    "imagefolder": _Layout(size=32, list_files=lambda place, _: list_folder(user_path(place))),
    "tiny-imagenet": _Layout(size=SIZE, list_files=lambda place, _: list_tiny_imagenet(user_path(place))),
    HUGGINGFACE: _Layout(size=32, list_files=list_huggingface),
}
"""What can stand before `:PATH`."""


def read_folder(layout: str, place: str, columns: Columns, tell: Tell | None) -> Folder:
    """List a folder, and read every file once.

    Args:
        layout: which of `LAYOUTS`.
        place: what stands behind its colon.
        columns: of a layout whose files are tables.
        tell: as `raysp.data.imagefolder.scan` takes it, whose errors this raises.

    Raises:
        FolderError: columns are named for a layout that has none.
    """
    if layout != HUGGINGFACE and any(columns):
        raise FolderError(f"{layout}: has no columns; expected --image-column and --label-column with {HUGGINGFACE}: alone")
    return scan(LAYOUTS[layout].list_files(place, columns), tell)


def config_of(layout: str, folder: Folder, image_size: int, crop_padding: int, selection: Selection) -> DataConfig:
    """What identifies a folder's images as they are trained on."""
    config = DataConfig(
        name=layout,
        fingerprint=folder.fingerprint,
        num_classes=len(folder.listing.classes),
        image_size=image_size,
        crop_padding=crop_padding,
        selection=selection,
        depth=folder.depth,
    )
    if not _holds_out(folder, config):
        return config
    return replace(config, every_class_kept=takes_a_class(labels_of(folder.listing.parts["train"]), config.val_fraction))


def split_of(folder: Folder, config: DataConfig) -> dict[str, list[int]]:
    """Numbers of the training part's entries that are trained on ("train") and, where some are, of those held out ("val")."""
    entries = folder.listing.parts["train"]
    if not _holds_out(folder, config):
        return {"train": list(range(len(entries)))}
    kept, held = held_out(labels_of(entries), config.val_fraction, every_class_kept=config.every_class_kept)
    return {"train": kept.tolist(), "val": held.tolist()}


def load_folder(folder: Folder, config: DataConfig) -> Decoded:
    """Decode "train", "val" and "test", each image once. Raises FolderError, which names all unreadable files."""
    listed = folder.listing.parts
    wanted = {part: [listed["train"][row] for row in rows] for part, rows in split_of(folder, config).items()}
    wanted["test"] = list(listed["test"])
    if config.selection == "val" and "val" in listed:
        wanted["val"] = list(listed["val"])
    decoded = decode(folder.listing.root, wanted, config.image_size, config.depth)
    return {"val": decoded["test"], **decoded}


def _holds_out(folder: Folder, config: DataConfig) -> bool:
    return config.selection == "val" and "val" not in folder.listing.parts
