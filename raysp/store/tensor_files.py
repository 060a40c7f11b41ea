"""Files of tensors, and the proof that a file is what was written.

Owns safetensors content, digests, and the error for a file that can't be trusted. Refuses to know where files lie and what they
are for (`raysp.store.records`). Nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from raysp.store.location import Location, NotAFile, Unreachable, read

UNREADABLE = "can't be read"
"""In the reason of a file that may be whole."""


class DamagedFile(Exception):
    """A file of the store can't be trusted; says which and why."""

    def __init__(self, path: Location, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


def unreadable(path: Location, error: OSError) -> DamagedFile:
    """For who goes on without a file that the system doesn't let him read: the file, why, and what to do.

    Raises:
        OSError: the error itself, where all other files there can't be read either.
    """
    if isinstance(error, Unreachable) and not isinstance(error.__cause__, PermissionError):
        raise error
    found = error.__cause__ if isinstance(error.__cause__, OSError) else error
    reason = f"{UNREADABLE} ({found.strerror or found})"
    return DamagedFile(path, f"{reason}; make it readable, or move it out of the results directory")


def load_tensors(path: Location, expected: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU.

    Args:
        path: the file.
        expected: its entry in its record's `files`; None checks nothing but that it can be read.

    Raises:
        DamagedFile: it isn't what the record says, or not readable.
    """
    content = read_listed(path)
    if expected is not None and fingerprint(content) != expected:
        raise DamagedFile(path, "its content is not what the record says (truncated or altered)")
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DamagedFile(path, f"not readable as safetensors ({error})") from error


def unpack(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file's content.

    Raises:
        safetensors.SafetensorError, ValueError: it isn't one.
    """
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # safetensors reads it from paths alone
    return tensors, header.get("__metadata__", {})


def read_file(path: Location) -> bytes | None:
    """A file's content; None where there is none. Raises DamagedFile where something else has its name."""
    try:
        return read(path)
    except NotAFile as error:
        raise DamagedFile(path, str(error)) from None


def read_listed(path: Location) -> bytes:
    """The content of a file that must be there. Raises DamagedFile where it isn't."""
    content = read_file(path)
    if content is None:
        raise DamagedFile(path, f"{UNREADABLE} (No such file or directory)")
    return content


def plain_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU, as safetensors wants them: in one piece each, by name."""
    # safetensors refuses tensors that share memory, and keeps no strides.
    return {name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())}


def digest_of(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """A digest (hexadecimal SHA-256) of a text and of tensors by name, type, shape and value."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


def fingerprint(content: bytes) -> dict[str, Any]:
    """What a record's `files` says of a file: its length in bytes and its digest."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
