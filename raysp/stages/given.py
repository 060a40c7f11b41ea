"""A user's own weights in place of the baseline's training.

Owns reading them and fitting them to a network. Contract: nothing is unpickled; weights that don't fit are refused by name before
anything is trained.
"""

import io
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from raysp.models.network import Network
from raysp.store.location import read_given
from raysp.store.tensor_files import digest_of, unpack

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which checkpoints keep the weights."""
PREFIXES = ("module.", "_orig_mod.")
"""What torch's wrappers for several GPUs and for compiling put before every name."""


def read_weights(path: Path, network: Network, left_out: Container[str] = ()) -> dict[str, Tensor]:
    """Read weights for a network, from safetensors or from a file of `torch.save`.

    Args:
        path: the file.
        network: on any device, "meta" too.
        left_out: names that the file may have besides.

    Returns:
        The network's whole state: these weights, and masks that keep every ReLU.

    Raises:
        ValueError: the file can't be read, or holds another network's weights.
    """
    tensors = _unwrapped(_content(path), path)
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(".mask")}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # of no use, and missing in old files
    missing = [name for name in expected if name not in tensors and name not in counters]
    unexpected = [name for name in tensors if name not in expected and name not in left_out and not name.endswith(".mask")]
    shapes = [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
    strangers = {"missing": missing, "unexpected": unexpected}
    wrong = [f"{what} {names[0]} ({len(names)} in all)" for what, names in strangers.items() if names]
    if shapes:
        found, wanted = (list(side[shapes[0]].shape) for side in (tensors, expected))
        wrong.append(f"{shapes[0]} is {found}, expected {wanted} ({len(shapes)} of another shape)")
    if wrong:
        raise ValueError(f"--baseline {path}: not the weights of {network.name}: {'; '.join(wrong)}")
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            _check_kind(name, tensors[name], path)
    zero = torch.zeros((), dtype=torch.int64)
    state = {name: tensors.get(name, zero).to(tensor.dtype).contiguous() for name, tensor in expected.items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all() or (name.endswith("running_var") and (tensor < 0).any()):
            raise ValueError(
                f"--baseline {path}: {name} isn't finite in float32, or a variance below 0; expected a trained network's"
            )
    masks = {f"{layer.name}.mask": torch.ones(layer.relu.shape, dtype=torch.bool) for layer in network.relu_layers()}
    return state | masks


def _check_kind(name: str, tensor: Tensor, path: Path) -> None:
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if tensor.dtype not in kinds or tensor.layout != torch.strided or tensor.is_meta:
        found = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise ValueError(f"--baseline {path}: {name} is {found}; expected dense numbers of {', '.join(map(str, kinds))}")


def digest(state: Mapping[str, Tensor]) -> str:
    """What tells weights from others, as 64 hex digits; the file's kind doesn't count."""
    return digest_of(state, "")


def _content(path: Path) -> Any:
    try:
        content = read_given(path, "a file of weights")
    except MemoryError as error:
        raise ValueError(f"--baseline {path} is larger than memory; expected a file of weights") from error
    try:
        return unpack(content)[0]
    except (safetensors.SafetensorError, ValueError, OSError):
        pass  # another kind
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a file that isn't its own
        raise ValueError(
            f"--baseline {path}: neither safetensors nor a file of torch.save that holds weights alone; expected "
            "model.state_dict(), saved by either"
        ) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        inner = next((content[key] for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
        content = content if inner is None else inner
    if not isinstance(content, dict) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"--baseline {path}: holds no tensors by name; expected model.state_dict()")
    for prefix in PREFIXES:
        if all(str(name).startswith(prefix) for name in content):
            content = {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}
    return {str(name): tensor for name, tensor in content.items()}
