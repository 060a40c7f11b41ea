"""`raysp doctor`: one page with what a bug report needs, and what will not work here.

Owns the page, and what it says of this process. The machine is looked at by `raysp.engine.surroundings`, packages by
`raysp.command.packages`, GPUs, a compiler and a browser by `raysp.command.programs`. Contract: it exits with 0, whatever it
finds; it prints no secret, and changes nothing, but makes what stands in for a home where nobody knows one; what can't be found
out is said to be unknown.
"""

import locale
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from raysp import __version__
from raysp.command.packages import PACKAGES, is_there, missing_modules, troubles_of_packages, version_of
from raysp.command.programs import Gpus, browser_of, compiler_of, gpus_here, has_directory, told_of_gpus, troubles_of_gpus
from raysp.command.terminal import shield
from raysp.engine.shadows import shadows, told, workers_directories
from raysp.engine.surroundings import Surroundings, cpus, look, tried
from raysp.engine.troubles import Trouble, gigabytes, troubles


@dataclass(frozen=True)
class DoctorFlags:
    """Say what is here and what will not work, on one page for a bug report. Exits with 0."""

    storage: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="")] = None
    """Try out, too, whether results can be kept there: small files are made, and removed."""
    cpus: bool = False
    """Say only how many CPUs this machine gives, for `ray start --num-cpus`, which by itself looks at no affinity and takes half
    of one for none."""


def main(arguments: Sequence[str] | None = None, prog: str = "raysp doctor") -> None:
    """Parse, look, print, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    shield(anywhere=True)
    flags = tyro.cli(DoctorFlags, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    for line in [str(cpus().whole)] if flags.cpus else page(storage=flags.storage):
        print(line)
    sys.exit(0)


def page(root: Path = Path("/"), environ: Mapping[str, str] = os.environ, storage: str | None = None) -> Iterator[str]:
    """The page, line by line.

    Args:
        root: what /proc, /sys and /dev are looked for in.
        environ: the environment.
        storage: where results are to be kept, to be tried out.
    """
    here = look(root, environ)
    gpus = tried(lambda: gpus_here(root, environ), Gpus(listed=None, driver="", usable=None, built_for="unknown", mps=None))
    compiler, browser = tried(lambda: compiler_of(environ), None), tried(lambda: browser_of(environ), None)
    missing = missing_modules()
    lines: dict[str, Callable[[], str]] = {
        "raysp": lambda: f"{__version__}{tried(_commit, '')}, in {Path(__file__).parents[1]}",
        "python": lambda: f"{platform.python_version()}, {sys.executable}",
        "system": lambda: f"{platform.platform()}, {platform.machine()}",
        "packages": lambda: ", ".join(f"{name} {version_of(name) or 'missing'}" for name in PACKAGES),
        "extras": lambda: ", ".join(f"{name} {'no' if absent else 'yes'}" for name, absent in missing.items()),
        "CPUs": lambda: _cpus(here),
        "memory": lambda: _memory(here),
        "shared": lambda: "none" if here.shared is None else f"{gigabytes(here.shared)} of shared memory",
        "home": lambda: f"{here.home or 'unknown'}{'' if here.home_writable else ', not writable'}",
        "here": lambda: f"{Path.cwd()}, {gigabytes(shutil.disk_usage(Path.cwd()).free)} free",
        "Ray": lambda: _ray(here),
        "GPUs": lambda: told_of_gpus(gpus),
        "compiler": lambda: compiler or "none",
        "browser": lambda: browser or "none",
        "terminal": lambda: f"{_encoding()}, {locale.setlocale(locale.LC_CTYPE)}, {shutil.get_terminal_size().columns} columns",
        "variables": lambda: _variables(environ),
    }
    for name, tell in lines.items():
        yield f"{name:10} {tried(tell, 'unknown')}"
    lacking: list[Trouble] = []
    if storage is not None:
        said, lacking = _of_storage(storage)
        yield f"{'storage':10} {said}"
    yield ""
    found = [
        *_of_shadows(),
        *troubles(here),
        *troubles_of_packages(missing),
        *troubles_of_gpus(gpus),
        *_of_programs(compiler, browser),
        *lacking,
    ]
    for trouble in found:
        yield f"will not work: {trouble}"
    if not found:
        yield "nothing was found that will not work"


def _of_shadows() -> Iterator[Trouble]:
    nothing: list[Path] = []
    for path in tried(lambda: shadows(workers_directories()), nothing):
        yield Trouble(what="a sweep from this directory", because=told(path), remedy="rename it, or work in another directory")


def _of_storage(storage: str) -> tuple[str, list[Trouble]]:
    """What can be done at a place for results, and what will not work."""
    from raysp.store.location import locate  # with fsspec, which takes its time
    from raysp.store.tryout import try_out

    try:
        found = try_out(locate(storage))
    except Exception as error:  # an object store's package has errors of its own
        return "can't be used", [Trouble(what=f"--storage {storage}", because=str(error))]
    kind = "the kernel's lock" if found.locks else "no kernel's lock: a run renews a file there instead"
    return "; ".join((f"{storage} can be used", kind, *found.notes)), []


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
            what="signs such as plus-minus on this terminal, which are written as Python escapes them",
            because=f"its encoding is {_encoding()}",
            remedy="set PYTHONIOENCODING=utf-8",
        )


def _commit() -> str:
    if not is_there("torch") or not has_directory():
        return ""
    from raysp.engine.sweep import git_state

    state = git_state()
    return f", commit {state['commit'][:12]}{' and changes' if state['dirty'] else ''}" if state else ""


def _cpus(here: Surroundings) -> str:
    cpus = here.cpus
    quota = "no quota" if cpus.quota is None else f"a quota of {cpus.quota:.3g}"
    return f"{cpus.usable:.3g} of {cpus.machine} usable (affinity {cpus.affinity}, {quota}); a local Ray gets {cpus.whole}"


def _memory(here: Surroundings) -> str:
    memory = here.memory
    said = [("free", memory.free), ("of the machine", memory.total), ("limit of the container", memory.limit)]
    return ", ".join(f"{gigabytes(amount)} {name}" for name, amount in said if amount is not None) or "unknown"


def _ray(here: Surroundings) -> str:
    cluster = "would be started here"
    if here.address:
        instead = "" if here.address_from == "RAY_ADDRESS" else ", so one is started here"
        heard = {True: "answers", False: f"doesn't answer{instead}", None: "not tried"}[here.answers]
        cluster = f"at {here.address} by {here.address_from} ({heard})"
    why = f" ({here.why_elsewhere})" if here.sessions != here.ray_directory else ""
    return f"{cluster}; sessions in {here.sessions or 'no place'}{why}; a cluster's token {here.token or 'nowhere'}"


def _variables(environ: Mapping[str, str]) -> str:
    """Names alone of what changes how things run; values may be secret."""
    telling = re.compile(
        r"(RAY|CUDA|NCCL|OMP|MKL|TORCH|PYTORCH|SLURM_JOB|AWS|KUBERNETES_SERVICE_HOST).*|(?i:https?|no)_proxy|TMPDIR"
    )
    return ", ".join(sorted(name for name in environ if telling.fullmatch(name))) or "none that matter"


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "unknown"


if __name__ == "__main__":
    main()
