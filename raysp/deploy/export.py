"""Taking a model away: one exit, collapsed and folded, as ONNX or as torch's own exported program, with its card.

Owns the exported form and its check. Contract: what is written computes what the network computes, to 1e-4 of its largest logit,
or nothing is written; nothing that exists is overwritten; masks are constants in it.

    <out>/model.onnx or model.pt2     from normalised images (n, channels, height, width) to logits (n, classes), for any n
    <out>/card.json, card.md          see `raysp.deploy.card`
"""

import importlib.util
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raysp.deploy.card import card_of, markdown
from raysp.deploy.formats import FILES, OPSET, OPSETS, Format
from raysp.deploy.runtimes import exported_with, needs_of
from raysp.engine.surroundings import can_write
from raysp.models.collapse import Logits, collapse, fold_batchnorm, steep_norms
from raysp.models.exits import exit_of
from raysp.models.files import load_model
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU
from raysp.store.extras import remedy_for
from raysp.store.location import locate
from raysp.store.paths import user_path
from raysp.store.tensor_files import fingerprint

TOLERANCE = 1e-4
"""Of the largest logit."""
CHECKED_IMAGES = 4
ABOUT = "model.json"
"""The extra file of torch's program that holds the card's `model`: classes, and what an image must become. ONNX has the same as
metadata, a field each.
"""


class _FixedReLU(nn.Module):
    """ReLU at the positions of a mask, for good; of maps or of vectors."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask.flatten() if x.dim() == 2 else self.mask, torch.relu(x), x)


def export(
    directory: str | Path,
    out: str | Path,
    *,
    format: Format,  # noqa: A002 (the flag's word)
    exit: str | None = None,  # noqa: A002 (the field's word)
    data_licence: str | None = None,
    opset: int | None = None,
) -> dict[str, Any]:
    """Export a trained model with its card.

    Args:
        directory: a finished stage's, or one that `save_model` wrote.
        out: a directory that doesn't exist yet.
        format: "onnx" (needs the extra `export`) or "torch".
        exit: which; None takes the final one, or the only one.
        data_licence: what the card says of the training data's licence, in the user's words.
        opset: version of ONNX's operations, within `OPSETS`; None takes `OPSET`.

    Returns:
        The card.

    Raises:
        ValueError: no such model, exit or opset, or the packages for ONNX are missing.
        FileExistsError: `out` exists.
        OSError: it can't be written.
        RuntimeError: the exported model computes something else; nothing was written.
    """
    place, target = locate(directory), user_path(out)
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists; give another directory, so that nothing is overwritten")
    if not can_write(target.parent):
        raise OSError(f"{target} can't be written: no file can be made in {target.parent}; give another directory")
    if opset is not None and (format != "onnx" or not OPSETS[0] <= opset <= OPSETS[1]):
        expected = f"a version of ONNX's operations from {OPSETS[0]} to {OPSETS[1]}"
        raise ValueError(f"--opset {opset} with --format {format}; expected {expected}, and --format onnx")
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(f"ONNX needs {', '.join(missing)}: {remedy_for('export')}")
    model = load_model(directory)
    name = exit_of(model.exit_names, exit)
    plain = collapse(model, name)
    card = card_of(model, name, place, data_licence=data_licence)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-export-", dir=target.parent) as beside:
        scratch = Path(beside) / "export"
        scratch.mkdir()
        path = scratch / FILES[format]
        error = _write_checked(plain, path, format, opset, card["model"])
        by = "onnxruntime" if format == "onnx" else "torch.export.load"
        card["check"] = {"against": "torch", "by": by, "relative_error": error}
        card["file"] = {"name": path.name, "format": format, **fingerprint(path.read_bytes()), "needs": needs_of(path, format)}
        card["origin"]["exported_with"] = exported_with(format)
        (scratch / "card.json").write_text(json.dumps(card, indent=1))
        (scratch / "card.md").write_text(markdown(card))
        if os.path.lexists(target):  # whoever came first
            raise FileExistsError(f"{target} exists; give another directory, so that nothing is overwritten")
        scratch.rename(target)
    return card


def _write_checked(
    plain: Network,
    path: Path,
    format: Format,  # noqa: A002 (the flag's word)
    opset: int | None,
    about: Mapping[str, Any],
) -> float:
    """Fold and write a collapsed network, and in the same file what the card says of it; returns how far what was written is
    from it.
    """
    images = torch.randn(CHECKED_IMAGES, *plain.example_input().shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = Logits(plain)(images)
    fixed = Logits(_fix_masks(fold_batchnorm(plain))).eval().requires_grad_(False)
    batch = {"image": {0: torch.export.Dim("images")}}
    if format == "torch":
        packed = io.BytesIO()  # torch ends the process where it finds a disk full
        program = torch.export.export(fixed, (images[:2],), dynamic_shapes=batch)
        torch.export.save(program, packed, extra_files={ABOUT: json.dumps(about)})
        path.write_bytes(packed.getvalue())
        again: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    else:
        again = _to_onnx(fixed, images[:2], batch, path, opset or OPSET, about)
    several = (1, CHECKED_IMAGES)
    error = max(float((again(images[:n]) - wanted[:n]).abs().max()) for n in several) / float(wanted.abs().max())
    if not error <= TOLERANCE:
        steep = steep_norms(plain)
        raise RuntimeError(
            f"the exported model is off by {error:.1e} of its largest logit; expected at most {TOLERANCE:.0e}"
            f"{f': {steep}, and so what rounding changes' if steep else ''}"
        )
    return error


def _to_onnx(
    fixed: nn.Module, images: Tensor, batch: Any, path: Path, opset: int, about: Mapping[str, Any]
) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    names = {"input_names": ["image"], "output_names": ["logits"], "opset_version": opset}
    program = torch.onnx.export(fixed, (images,), dynamo=True, dynamic_shapes=batch, verbose=False, **names)  # type: ignore[arg-type]
    assert program is not None
    said = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    program.model.metadata_props.update(said)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(None, {"image": given.numpy()})[0])


def _fix_masks(model: Network) -> Network:
    """A copy whose masked ReLUs are constants."""
    fixed = collapse(model, model.exit_names[0])
    for parent in list(fixed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaskedReLU):
                plain = nn.Identity() if child.kept == 0 else nn.ReLU() if child.kept == child.size else _FixedReLU(child.mask)
                setattr(parent, name, plain)
    return fixed
