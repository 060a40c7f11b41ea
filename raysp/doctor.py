"""`raysp doctor`: one page with what a bug report needs, and what will not work here.

Owns what is looked for besides the machine (`raysp.engine.surroundings`): packages, extras, GPUs, a compiler, a browser.
Contract: it exits with 0, whatever it finds; it prints no secret, and changes nothing; what can't be found out is said to be
unknown.
"""

import importlib.util
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tyro

from raysp import __version__
from raysp.engine.surroundings import Surroundings, look, tried
from raysp.engine.troubles import Trouble, gigabytes, troubles
from raysp.terminal import shield

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
    "pi": (("spu", "jax"), "raysp pi measure, raysp pi calibrate and --measure-pi"),
}
"""The modules of every extra, and what needs them."""

COMPILERS = ("g++", "clang++", "c++")
BROWSERS = (
    "firefox", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser",
    *(("open",) if sys.platform == "darwin" else ("wslview",)),
)  # fmt: skip
PATIENCE_S = 5.0
"""Seconds that another program may take to answer."""


@dataclass(frozen=True)
class DoctorFlags:
    """Say what is here and what will not work, on one page for a bug report. Exits with 0."""


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


def main(arguments: Sequence[str] | None = None, prog: str = "raysp doctor") -> None:
    """Parse, look, print, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    shield()
    tyro.cli(DoctorFlags, args=arguments, prog=prog)
    for line in page():
        print(line)
    sys.exit(0)


def page(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The page, line by line.

    Args:
        root: what /proc, /sys and /dev are looked for in.
        environ: the environment.
    """
    here = look(root, environ)
    gpus = tried(lambda: gpus_here(root, environ), Gpus(listed=None, driver="", usable=None, built_for="unknown", mps=None))
    compiler, browser = tried(lambda: compiler_of(environ), None), tried(lambda: browser_of(environ), None)
    missing = {name: [module for module in modules if not _is_there(module)] for name, (modules, _) in EXTRAS.items()}
    lines: dict[str, Callable[[], str]] = {
        "raysp": lambda: f"{__version__}{tried(_commit, '')}, in {Path(__file__).parent}",
        "python": lambda: f"{platform.python_version()}, {sys.executable}",
        "system": lambda: f"{platform.platform()}, {platform.machine()}",
        "packages": lambda: ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES),
        "extras": lambda: ", ".join(f"{name} {'no' if absent else 'yes'}" for name, absent in missing.items()),
        "CPUs": lambda: _cpus(here),
        "memory": lambda: _memory(here),
        "shared": lambda: "none" if here.shared is None else f"{gigabytes(here.shared)} of shared memory",
        "home": lambda: f"{here.home or 'unknown'}{'' if here.home_writable else ', not writable'}",
        "here": lambda: f"{Path.cwd()}, {gigabytes(shutil.disk_usage(Path.cwd()).free)} free",
        "Ray": lambda: _ray(here),
        "GPUs": lambda: _gpus(gpus),
        "compiler": lambda: compiler or "none",
        "browser": lambda: browser or "none",
        "terminal": lambda: f"{_encoding()}, {locale.setlocale(locale.LC_CTYPE)}, {shutil.get_terminal_size().columns} columns",
        "variables": lambda: _variables(environ),
    }
    for name, tell in lines.items():
        yield f"{name:10} {tried(tell, 'unknown')}"
    yield ""
    found = [
        *troubles(here),
        *_of_packages(missing),
        *_of_gpus(gpus),
        *_of_programs(compiler, browser),
    ]
    for trouble in found:
        yield f"will not work: {trouble}"
    if not found:
        yield "nothing was found that will not work"


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


def _of_packages(missing: Mapping[str, Sequence[str]]) -> Iterator[Trouble]:
    for name, needed_for in (("torch", "all that trains"), ("ray", "a sweep without --inline"), ("matplotlib", "the report")):
        if not _is_there(name):
            yield Trouble(what=needed_for, because=f"{name} isn't installed", remedy=f"pip install {name}")
    for extra, absent in missing.items():
        if absent:
            too_new = extra == "pi" and sys.version_info >= (3, 13)
            yield Trouble(
                what=EXTRAS[extra][1],
                because=f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} missing",
                remedy="it needs Python 3.11 or 3.12" if too_new else f"pip install -e '.[{extra}]' where raysp lies",
            )


def _of_gpus(gpus: Gpus) -> Iterator[Trouble]:
    if gpus.usable is None and gpus.built_for:
        yield Trouble(what="all that trains", because=f"torch can't be imported: {gpus.built_for}")
    elif gpus.listed and not gpus.usable:
        yield Trouble(
            what="training on the GPU",
            because=f"torch, built for CUDA {gpus.built_for or 'no version'}, finds none with driver {gpus.driver}",
            remedy="a torch for this driver, or a newer driver",
        )


def _of_programs(compiler: str | None, browser: str | None) -> Iterator[Trouble]:
    if compiler is None:
        yield Trouble(what="--compile", because="there is no C++ compiler on the path", remedy="install g++, or set CXX")
    if browser is None:
        yield Trouble(
            what="looking at report.html here", because="there is no browser", remedy="copy it to a machine that has one"
        )
    try:
        "±γ".encode(_encoding())
    except (UnicodeError, LookupError):
        yield Trouble(
            what="signs such as ± on this terminal",
            because=f"its encoding is {_encoding()}",
            remedy="set PYTHONIOENCODING=utf-8",
        )


def _commit() -> str:
    if not _is_there("torch"):
        return ""
    from raysp.engine.sweep import git_state

    state = git_state()
    return f", commit {state['commit'][:12]}{' and changes' if state['dirty'] else ''}" if state else ""


def _cpus(here: Surroundings) -> str:
    cpus = here.cpus
    quota = "no quota" if cpus.quota is None else f"a quota of {cpus.quota:.3g}"
    return f"{cpus.usable:.3g} of {cpus.machine} usable (affinity {cpus.affinity}, {quota}); Ray counts {cpus.ray}"


def _memory(here: Surroundings) -> str:
    memory = here.memory
    said = [("free", memory.free), ("of the machine", memory.total), ("limit of the container", memory.limit)]
    return ", ".join(f"{gigabytes(amount)} {name}" for name, amount in said if amount is not None) or "unknown"


def _ray(here: Surroundings) -> str:
    cluster = "would be started here"
    if here.address:
        heard = {True: "answers", False: "doesn't answer", None: "not tried"}[here.answers]
        cluster = f"at {here.address} by {here.address_from} ({heard})"
    directory = f"{here.ray_directory}{'' if here.ray_directory_writable else ', not writable'}"
    return f"{cluster}; sessions in {directory}; token {here.token or 'none'}"


def _gpus(gpus: Gpus) -> str:
    listed = "nvidia-smi is missing, or doesn't answer" if gpus.listed is None else "; ".join(gpus.listed) or "none"
    driver = f", driver {gpus.driver}" if gpus.driver else ""
    torch = "torch can't be asked" if gpus.usable is None else f"torch (CUDA {gpus.built_for or 'no'}) finds {gpus.usable}"
    return f"{listed}{driver}; {torch}; MPS {'off' if gpus.mps is None else f'at {gpus.mps}'}"


def _variables(environ: Mapping[str, str]) -> str:
    """Names alone of what changes how things run; values may be secret."""
    telling = re.compile(
        r"(RAY|CUDA|NCCL|OMP|MKL|TORCH|PYTORCH|SLURM_JOB|AWS|KUBERNETES_SERVICE_HOST).*|(?i:https?|no)_proxy|TMPDIR"
    )
    return ", ".join(sorted(name for name in environ if telling.fullmatch(name))) or "none that matter"


def _asked_torch() -> tuple[int | None, str]:
    if not _is_there("torch"):
        return None, ""
    try:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.version.cuda or ""
    except Exception as error:  # a library that is missing, or of another version
        return None, f"{type(error).__name__}: {str(error).splitlines()[0]:.150}" if str(error) else type(error).__name__


def _version(package: str) -> str | None:
    return tried(lambda: metadata.version(package), None)


def _is_there(module: str) -> bool:
    return tried(lambda: importlib.util.find_spec(module) is not None, False)


def _output(*command: str) -> str | None:
    """What a program prints; None where it isn't there, fails, or doesn't answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=True)
        return done.stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "unknown"


if __name__ == "__main__":
    main()
