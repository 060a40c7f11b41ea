"""What `raysp doctor` finds of GPUs, a compiler and a browser.

Owns asking other programs, and torch. Contract: what doesn't answer in time is as good as missing; nothing raises.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from raysp.command.packages import is_there
from raysp.engine.surroundings import tried
from raysp.engine.troubles import Trouble

COMPILERS = ("g++", "clang++", "c++")
BROWSERS = (
    "firefox", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser",
    *(("open",) if sys.platform == "darwin" else ("wslview",)),
)  # fmt: skip
PATIENCE_S = 5.0
"""Seconds that another program may take to answer."""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What is known of GPUs."""

    listed: tuple[str, ...] | None
    """By the driver, with memory; None where its program doesn't answer."""
    driver: str
    usable: int | None
    """By torch; None where torch can't be asked."""
    built_for: str
    """The CUDA that torch was built for, or why torch can't be asked."""
    mps: str | None
    """Where CUDA's multi-process service listens; None where it doesn't."""


def gpus_here(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Gpus:
    """What the driver and torch say of GPUs. Imports torch, if it is there."""
    said = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    rows = [[cell.strip() for cell in line.split(",")] for line in (said or "").splitlines() if line.count(",") == 2]
    usable, built_for = _asked_torch()
    pipes = Path(environ.get("CUDA_MPS_PIPE_DIRECTORY") or root / "tmp" / "nvidia-mps")
    return Gpus(
        listed=None if said is None else tuple(f"{name}, {memory}" for name, memory, _ in rows),
        driver=rows[0][2] if rows else "",
        usable=usable,
        built_for=built_for,
        mps=str(pipes) if tried((pipes / "control").exists, False) else None,
    )


def compiler_of(environ: Mapping[str, str] = os.environ) -> str | None:
    """The C++ compiler that torch.compile would take, with its version; None where there is none."""
    path = environ.get("PATH")
    for name in (environ.get("CXX"), *COMPILERS):
        if name and (found := shutil.which(name, path=path)):
            version = re.search(r"\d+\.\d+(\.\d+)?", _output(found, "--version") or "")
            return f"{found} {version[0] if version else ''}".strip()
    return None


def browser_of(environ: Mapping[str, str] = os.environ) -> str | None:
    """A program that could show report.html; None where there is none."""
    names = (*environ.get("BROWSER", "").split(os.pathsep), *BROWSERS)
    return next((found for name in names if name and (found := shutil.which(name, path=environ.get("PATH")))), None)


def troubles_of_gpus(gpus: Gpus) -> Iterator[Trouble]:
    """What GPUs will not do here."""
    if gpus.usable is None and gpus.built_for:
        yield Trouble(what="all that trains", because=f"torch can't be imported: {gpus.built_for}")
    elif gpus.listed and not gpus.usable:
        yield Trouble(
            what="training on the GPU",
            because=f"torch, built for CUDA {gpus.built_for or 'no version'}, finds none with driver {gpus.driver}",
            remedy="a torch for this driver, or a newer driver",
        )


def told_of_gpus(gpus: Gpus) -> str:
    """GPUs, in one line."""
    listed = "nvidia-smi is missing, or doesn't answer" if gpus.listed is None else "; ".join(gpus.listed) or "none"
    driver = f", driver {gpus.driver}" if gpus.driver else ""
    torch = "torch can't be asked" if gpus.usable is None else f"torch (CUDA {gpus.built_for or 'no'}) finds {gpus.usable}"
    return f"{listed}{driver}; {torch}; MPS {'off' if gpus.mps is None else f'at {gpus.mps}'}"


def has_directory() -> bool:
    """Whether the current directory is there: without one, torch ends the process as it is imported."""
    return tried(lambda: bool(Path.cwd()), False)


def _asked_torch() -> tuple[int | None, str]:
    if not is_there("torch"):
        return None, ""
    if not has_directory():
        return None, "the current directory was removed; go to another one"
    try:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.version.cuda or ""
    except Exception as error:  # a library that is missing, or of another version
        return None, f"{type(error).__name__}: {str(error).splitlines()[0]:.150}" if str(error) else type(error).__name__


def _output(*command: str) -> str | None:
    """What a program prints; None where it isn't there, fails, or doesn't answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=True)
        return done.stdout
    except (OSError, subprocess.SubprocessError):
        return None
