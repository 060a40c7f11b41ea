"""Saved networks: one safetensors file that says what network its weights belong to.

Owns the description of a network's shape, and reading and writing it. Contract: whatever was saved, gated, collapsed or folded,
is loaded as the same network; nothing is unpickled.

    <directory>/weights.safetensors     tensors, and the description as JSON in the file's metadata
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from raysp.models import build_model
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.exits import AC_HEADS, FINAL, exit_name
from raysp.models.network import Network
from raysp.store.keys import Config
from raysp.store.location import Location, locate, write_atomically
from raysp.store.records import RECORD, WEIGHTS, read_record
from raysp.store.tensor_files import DamagedFile, fingerprint, plain_tensors, read_listed, unpack

METADATA = "network"
"""Key of the description in a weights file's metadata."""


@dataclass(frozen=True, kw_only=True)
class NetworkShape(Config):
    """All that must be known to build the network that some weights belong to.

    Raises:
        ValueError: a field is of another type, or out of the range that its docstring gives.
    """

    model: str
    """A name in `raysp.models.MODELS`."""
    num_classes: int
    image_size: int
    in_channels: int
    width: int
    shallow_kernels: tuple[int, ...]
    """Per block of two convolutions, in forward order: its shallow branch's kernel size, or 0."""
    main_branches: bool
    """Whether blocks with a shallow branch still have their two convolutions."""
    gates: tuple[float, ...]
    """Per block of two convolutions: its gate γ, in [0, 1]."""
    ac_heads: tuple[str, ...]
    """Per stage but the last: the auxiliary head after it, or an empty string."""
    num_stages: int
    """Stages that are left; fewer than the model's where all behind an auxiliary classifier was cut off."""
    final: bool
    """Whether the final classifier is left."""
    folded: bool
    """Whether its batch norms were folded into convolutions."""
    input_mean: tuple[float, ...]
    """Per channel, in units of 255."""
    input_std: tuple[float, ...]
    """Per channel, in units of 255."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(kernel not in (0, 3, 5) for kernel in self.shallow_kernels):
            raise ValueError(f"shallow_kernels {self.shallow_kernels}; expected 0, 3 or 5 each")
        if len(self.gates) != len(self.shallow_kernels) or not all(0 <= gate <= 1 for gate in self.gates):
            raise ValueError(f"gates {self.gates}; expected one from 0 to 1 for each of {len(self.shallow_kernels)} blocks")
        if any(head and head not in AC_HEADS for head in self.ac_heads):
            raise ValueError(f"ac_heads {self.ac_heads}; expected {', '.join(AC_HEADS)} or nothing each")
        if not self.final and sum(map(bool, self.ac_heads)) != 1:
            raise ValueError("no final classifier; expected exactly one auxiliary head then")
        if not len(self.input_mean) == len(self.input_std) == self.in_channels:
            raise ValueError(f"{len(self.input_mean)} means and {len(self.input_std)} deviations for {self.in_channels} channels")


def shape_of(model: Network) -> NetworkShape:
    """Describe a network in whatever state it is."""
    blocks = [block for _, block in model.gated_blocks()]
    # A collapsed network has lost blocks; those that are left come first.
    return NetworkShape(
        model=model.name,
        num_classes=model.num_classes,
        image_size=model.image_size,
        in_channels=model.in_channels,
        width=model.width,
        shallow_kernels=tuple(block.shallow_kernel for block in blocks),
        main_branches=all(block.conv1 is not None for block in blocks),
        gates=tuple(block.gate for block in blocks),
        ac_heads=tuple(model.ac_heads.get(exit_name(s), "") for s in range(1, len(model.stage_sizes))),
        num_stages=len(model.stages),
        final=FINAL in model.heads,
        folded=model.folded,
        input_mean=tuple(model.input_mean),
        input_std=tuple(model.input_std),
    )


def build_shape(shape: NetworkShape) -> Network:
    """Build the network of a description, in evaluation mode, with weights of no meaning.

    Raises:
        ValueError: there is no such network.
    """
    with torch.device("cpu"):
        model = build_model(
            shape.model,
            num_classes=shape.num_classes,
            image_size=shape.image_size,
            in_channels=shape.in_channels,
            width=shape.width,
        )
        if len(shape.shallow_kernels) > len(model.gated_blocks()) or len(shape.ac_heads) != len(model.stages) - 1:
            raise ValueError(f"{len(shape.shallow_kernels)} blocks and {len(shape.ac_heads)} stages don't fit {shape.model}")
        for (_, block), kernel, gate in zip(model.gated_blocks(), shape.shallow_kernels, shape.gates, strict=False):
            if kernel:
                block.add_shallow_branch(kernel)
                block.gate = gate
                if not shape.main_branches:
                    block.drop_main_branch()
        for number, head in enumerate(shape.ac_heads, start=1):
            if head:
                model.add_exit(number, head)
    if not shape.final:
        model = collapse(model, next(iter(model.ac_heads)))
    if len(model.stages) != shape.num_stages:
        raise ValueError(f"{shape.num_stages} stages left of {shape.model} with these exits; expected {len(model.stages)}")
    if shape.folded:
        model = fold_batchnorm(model)
    model.input_mean, model.input_std = list(shape.input_mean), list(shape.input_std)
    return model.eval()


def metadata_of(model: Network) -> dict[str, str]:
    """What a weights file says about its network."""
    return {METADATA: json.dumps(shape_of(model).to_json())}


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
        raise ValueError(f"{path}: says nothing about its network; expected weights that raysp saved")
    try:
        model = build_shape(NetworkShape(**json.loads(metadata[METADATA])))
        model.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: its weights and its description don't make a network ({first_line:.200})") from error
    return model if exit is None else collapse(model, exit)
