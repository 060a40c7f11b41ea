"""Saved networks: one safetensors file that says what network its weights belong to.

Owns reading and writing it. Contract: whatever was saved, gated, collapsed or folded,
is loaded as the same network; nothing is unpickled.

    <directory>/weights.safetensors     tensors, and the description as JSON in the file's metadata
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from raysp.models.collapse import collapse
from raysp.models.description import build, describe
from raysp.models.named import NetworkShape
from raysp.models.network import Network
from raysp.store.location import Location, locate, write_atomically
from raysp.store.reasons import why
from raysp.store.record_files import read_record
from raysp.store.records import RECORD, WEIGHTS
from raysp.store.tensor_files import DamagedFile, fingerprint, plain_tensors, read_listed, unpack

METADATA = "network"
"""Key of the description in a weights file's metadata."""


def metadata_of(model: Network) -> dict[str, str]:
    """What a weights file says about its network."""
    return {METADATA: json.dumps(describe(model))}


def save_model(model: Network, directory: str | Path) -> Path:
    """Save a network in whatever state it is, for `load_model`.

    Args:
        model: gated or not, collapsed or not, folded or not.
        directory: made if it doesn't exist.

    Returns:
        The file that was written, `weights.safetensors` in the directory.

    Raises:
        FileExistsError: the directory holds saved weights already.
    """
    path = Path(directory) / WEIGHTS
    if path.exists() or (path.parent.exists() and not path.parent.is_dir()):
        raise FileExistsError(
            f"{path if path.exists() else directory} exists; give another directory, so that nothing is overwritten"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors.torch.save(plain_tensors(model.state_dict()), metadata_of(model)))
    return path


def checked_weights(directory: Location) -> dict[str, Any]:
    """Size and digest of a model's weights, after a look at whether its record is about them.

    Args:
        directory: a finished stage's, or one that `save_model` wrote, which has no record.

    Raises:
        DamagedFile: the record can't be read, or names other weights.
    """
    found = fingerprint(read_listed(directory / WEIGHTS))
    record = read_record(directory / RECORD)
    if record is not None and record.get("files", {}).get(WEIGHTS) != found:
        raise DamagedFile(directory / WEIGHTS, "not the weights that the record beside it is about; train the stage again")
    return found


def load_model(directory: str | Path, exit: str | None = None) -> Network:  # noqa: A002 (the field's word)
    """Load a network from a finished stage's directory, or from where `save_model` put it.

    Args:
        directory: holds `weights.safetensors`; nothing else in it is read. A path, or a URL such as s3://bucket/run/stages/...
        exit: collapse to this exit; None leaves all exits that were saved.

    Returns:
        The network in evaluation mode, on the CPU. Its inputs are images in [0, 1], minus `input_mean`, divided by `input_std`.

    Raises:
        ValueError: no such file, not a saved network, or no such exit.
    """
    path = locate(directory) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"no {WEIGHTS} in {directory}; expected the directory of a finished stage, or one that save_model wrote")
    try:
        tensors, metadata = unpack(path.read_bytes())
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as safetensors ({error})") from error
    if METADATA not in metadata:
        raise ValueError(
            f"{path}: says nothing about its network; expected the weights of a stage that ends with one (a ranking doesn't), or "
            "what save_model wrote"
        )
    try:
        with torch.device("cpu"):
            model = _described(metadata)
        model.load_state_dict(tensors)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: its weights and its description don't make a network ({first_line:.200})") from error
    return model if exit is None else collapse(model, exit)


MOST_OF_A_HEADER = 100_000_000
"""Bytes; safetensors allows no more."""


def load_outline(directory: Location) -> Network:
    """The network of a finished stage without its weights, on "meta": of its file only the header is read.

    Raises:
        ValueError: there is no such file, or it doesn't say what network it is of.
        OSError: it can't be read.
    """
    path = directory / WEIGHTS
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(length) if length <= MOST_OF_A_HEADER else b"")["__metadata__"]
        with torch.device("meta"):
            return _described(metadata)
    except FileNotFoundError:
        raise ValueError(f"no {path}, which would say what network it is") from None
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: says nothing of its network ({why(error)})") from error


def _described(metadata: Mapping[str, str]) -> Network:
    """The network of a weights file's metadata. Raises what such access raises."""
    description = json.loads(metadata[METADATA])
    return build(description) if "format" in description else NetworkShape(**description).build()
