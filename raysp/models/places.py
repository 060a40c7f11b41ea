"""Where in a user's source something stands, and the error that says so."""

import inspect
import os
import traceback
from pathlib import Path

import torch
from torch import fx, nn

TORCH = str(Path(torch.__file__).parent) + os.sep
HERE = str(Path(__file__).parents[1]) + os.sep


class Untraceable(ValueError):
    """A module that can't become a graph; the message names every reason."""


def place_of_error(error: BaseException) -> str:
    """The last line of the user's that an error passed, as `place_of` gives it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_ours(f.filename)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def place_of_forward(module: nn.Module) -> str:
    """Where a module's forward begins, as `place_of` gives it; empty for torch's own."""
    try:
        code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    except AttributeError:  # what torch has compiled has no source
        return ""
    return "" if code is None or is_ours(code.co_filename) else f" ({code.co_filename}:{code.co_firstlineno})"


def is_ours(filename: str) -> bool:
    """Whether a source file is torch's or raysp's, and not the user's."""
    return filename.startswith((TORCH, HERE, "<"))


def place_of(node: fx.Node) -> str:
    """Where in the user's source an operation stands, as " (file:line)"; empty where that isn't known."""
    return str(node.meta.get("place", ""))
