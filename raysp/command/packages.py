"""What `raysp doctor` says of Python packages: versions, extras, and what lacks them.

Owns the looking and the conclusions. Contract: no package is imported to be found.
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from raysp.engine.surroundings import tried
from raysp.engine.troubles import Trouble
from raysp.store.extras import remedy_for

PACKAGES = (
    "torch", "torchvision", "ray", "numpy", "pandas", "matplotlib", "plotly", "scikit-learn", "safetensors", "fsspec",
    "universal-pathlib", "moocore", "pillow", "rich", "tyro",
)  # fmt: skip
"""Whose versions are told."""

EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "s3": (("s3fs", "boto3"), "results on S3 (--storage s3://...)"),
    "gs": (("gcsfs",), "results on Google's storage (--storage gs://...)"),
    "search": (("optuna",), "--search optuna"),
    "export": (("onnx", "onnxruntime", "onnxscript"), "raysp export --format onnx"),
    "huggingface": (("huggingface_hub",), "--dataset huggingface:NAME, from the Hub"),
    "mlflow": (("mlflow",), "--track mlflow:..."),
    "wandb": (("wandb",), "--track wandb:..."),
    "pi": (("spu", "jax"), "raysp pi measure, raysp pi calibrate and --measure-pi"),
}
"""The modules of every extra, and what needs them."""


def missing_modules() -> dict[str, list[str]]:
    """The modules of every extra that aren't there."""
    return {name: [module for module in modules if not is_there(module)] for name, (modules, _) in EXTRAS.items()}


def troubles_of_packages(missing: Mapping[str, Sequence[str]]) -> Iterator[Trouble]:
    """What lacks a package. `missing` is what `missing_modules` gives."""
    for name, needed_for in (("torch", "all that trains"), ("ray", "a sweep without --inline"), ("matplotlib", "the report")):
        if not is_there(name):
            yield Trouble(what=needed_for, because=f"{name} isn't installed", remedy=f"pip install {name}")
    for extra, absent in missing.items():
        if absent:
            too_new = extra == "pi" and sys.version_info >= (3, 13)
            yield Trouble(
                what=EXTRAS[extra][1],
                because=f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} missing",
                remedy="it needs Python 3.11 or 3.12" if too_new else remedy_for(extra),
            )


def version_of(package: str) -> str | None:
    """The version that is installed; None where none is."""
    return tried(lambda: metadata.version(package), None)


def is_there(module: str) -> bool:
    """Whether a module could be imported, as far as its file goes."""
    return tried(lambda: importlib.util.find_spec(module) is not None, False)
