"""`raysp export`, or `python -m raysp.export`: its flags, what it prints, its exit statuses.

Statuses: 0 done, 1 the exported model computed something else, 2 bad input, 130 interrupted, 143 terminated.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from raysp.command.terminal import shield
from raysp.deploy.formats import OPSET, Format
from raysp.engine import termination


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Take a trained model away: collapsed, batch norms folded, masks as constants, with a card of what it is."""

    model: Annotated[Positional[str], arg(metavar="MODEL_DIR")]
    """A finished stage's directory (runs/.../stages/finetune-<key>), or one that raysp.save_model wrote."""
    format: Format
    """`onnx`, or `torch` for torch.export."""
    exit: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: final, or the only one)")] = None
    """Which classifier: final, or ac<s>."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: <MODEL_DIR's name>-<exit>-<format>, here)")] = (
        None
    )
    """Where to write; must not be there yet."""
    opset: Annotated[int | None, arg(metavar="NUMBER", help_behavior_hint=f"(default: {OPSET})")] = None
    """Of `onnx`: the version of its operations, 18 to 23, for a runtime that knows no newer ones."""
    data_licence: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """What the card says of the training data's licence."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m raysp.export") -> None:
    """Parse, export, print, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    shield()
    flags = tyro.cli(ExportFlags, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    put_back = termination.install()
    try:
        status = _run(flags)
    except KeyboardInterrupt as error:
        print("interrupted; nothing was written", file=sys.stderr)
        status = 143 if termination.told() or isinstance(error, termination.Terminated) else 130
    finally:
        put_back()
    sys.exit(status)


def _run(flags: ExportFlags) -> int:
    # torch takes seconds to import
    from raysp.deploy.export import export
    from raysp.models.exits import exit_of
    from raysp.models.files import load_model
    from raysp.store.location import locate
    from raysp.store.tensor_files import DamagedFile

    try:
        name = exit_of(load_model(flags.model).exit_names, flags.exit)
        out = locate(flags.out or f"{locate(flags.model).name}-{name}-{flags.format}")
        if not isinstance(out, Path):
            raise ValueError(f"{flags.out} is a URL; expected a directory of this machine")
        card = export(flags.model, out, format=flags.format, exit=name, data_licence=flags.data_licence, opset=flags.opset)
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, DamagedFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    off = card["check"]["relative_error"]
    print(f"{out / card['file']['name']}, off by {off:.1e} of the largest logit; card.json and card.md beside it")
    return 0
