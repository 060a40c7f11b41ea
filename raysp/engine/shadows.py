"""Files that Python would import in place of an installed package, because they lie in a directory that it looks in first.

Owns the looking, and the refusal. Contract: imports nothing of what it looks for. A user's `torch.py` in the current directory
harms no program that is started by its path, but all workers of Ray, which look in the driver's current directory first.
"""

import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import all_suffixes
from pathlib import Path

PACKAGES = (
    "filelock", "fsspec", "itables", "jinja2", "markupsafe", "matplotlib", "moocore", "numpy", "optuna", "pandas",
    "PIL", "plotly", "pyarrow", "ray", "rich", "safetensors", "scipy", "sklearn", "tabulate", "tensorboardX", "torch",
    "torchvision", "tyro", "upath", "yaml",
)  # fmt: skip
"""What raysp imports, by the names of their modules."""


def shadows(directories: Iterable[Path]) -> list[Path]:
    """What has a package's name in these directories: modules, and directories with an `__init__.py`.

    Args:
        directories: what Python looks in before the installed packages. Where packages are installed, they are themselves.
    """
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    found = []
    for directory in dict.fromkeys(path.resolve() for path in directories):
        if directory in installed:
            continue
        for package in PACKAGES:
            modules = (directory / f"{package}{suffix}" for suffix in all_suffixes())
            found += [path for path in (*modules, directory / package / "__init__.py") if path.is_file()]
    return found


def first_directories() -> list[Path]:
    """What this process looks in first: the directory of its script, or the current one under `python -m` and `python -c`."""
    safe = sys.flags.safe_path or not sys.path  # then there is none
    return [] if safe else [Path(sys.path[0])]


def workers_directories() -> list[Path]:
    """What Ray's workers look in first: as their driver, and its current directory too."""
    try:
        return [*first_directories(), Path.cwd()]
    except FileNotFoundError:  # somebody has removed it
        return first_directories()


def refuse_shadows(directories: Iterable[Path]) -> None:
    """Raise ValueError, with what to do, if a file would be imported in place of a package."""
    if found := shadows(directories):
        raise ValueError(told(found[0]) + "; rename it, or start this in another directory")


def told(path: Path) -> str:
    """What such a file does."""
    package = path.parent.name if path.name == "__init__.py" else path.name.partition(".")[0]
    return f"{path} would be imported in place of the package {package}"
