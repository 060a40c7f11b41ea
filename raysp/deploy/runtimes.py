"""What an exported file needs of the program that loads it: its own versions, and the oldest runtime for them.

Owns the tables of runtimes. Refuses to promise: where no table knows a file, it names the runtime that has loaded it.
"""

import json
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from raysp.deploy.formats import Format

ONNXRUNTIMES = (("1.14", 18, 8), ("1.17", 20, 9), ("1.18", 21, 10))
"""Releases of onnxruntime, with the newest opset and IR version that each loads (its docs/Versioning.md, and ONNX's)."""

EXPORTERS: dict[Format, tuple[str, ...]] = {
    "onnx": ("raysp", "torch", "onnx", "onnxscript", "onnxruntime"),
    "torch": ("raysp", "torch"),
}
"""Packages that make a file, or have loaded it once."""


def needs_of(path: Path, format: Format) -> dict[str, Any]:  # noqa: A002 (the flag's word)
    """What loads a file that was exported, for its card.

    Args:
        path: the file.
        format: its form.

    Returns:
        Of ONNX `opset`, `ir_version` and `onnxruntime`, the oldest; of torch's program `schema` and `torch`, likewise.
    """
    if format == "torch":
        torch = ".".join(metadata.version("torch").split("+")[0].split(".")[:2])
        return {"schema": _schema(path), "torch": f"{torch} or newer (torch promises nothing for older ones)"}
    import onnx
    import onnxruntime

    model = onnx.load(path, load_external_data=False)
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    known = next((name for name, most, ir in ONNXRUNTIMES if opset <= most and model.ir_version <= ir), None)
    loaded = f"{onnxruntime.__version__} has loaded it, older ones were not tried"
    return {"opset": opset, "ir_version": model.ir_version, "onnxruntime": f"{known} or newer" if known else loaded}


def exported_with(format: Format) -> dict[str, str]:  # noqa: A002 (the flag's word)
    """Versions of what made a file, which needn't be those of its training."""
    found = {}
    for name in EXPORTERS[format]:
        with suppress(metadata.PackageNotFoundError):  # run from its source, or installed under another name
            found[name] = metadata.version(name)
    return found


def _schema(path: Path) -> str:
    """The version of torch's own description of a program, "major.minor"."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        version = json.loads(archive.read(name))["schema_version"]
    return f"{version['major']}.{version['minor']}"
