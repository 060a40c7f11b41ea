"""The annotated tree in CONTRIBUTING.md, from the modules' own first sentences. `update.py` writes it."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tree: python docs/update.py -->", "<!-- end of tree -->"
WIDTH = 128

PACKAGES = ("raysp", "analysis", "sweeps", "benchmarks")


def _rooms() -> list[str]:
    """The rooms of raysp/ from the ground up, as pyproject.toml lists the layers."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    return [layer.removeprefix("raysp.") for layer in reversed(layers)]


ORDER = _rooms()

OTHERS = """\
cluster.yaml           an AWS cluster for `ray up`
clusters/              own machines, Kubernetes, Slurm; aws.py makes what cluster.yaml needs in an account
tests/                 by room, as raysp/ has them
  helpers/             what several tests build or start: toy stages, small real ones, slow references
  faults.py            a script: kills at random, full disks, clocks set back
  surroundings.py      a script: a small sweep in pairs of odd surroundings, such as half a CPU and no home
  clusters/netns.py    a script: two hosts, of which one dies
  clusters/slurm.py    a script: two hosts under a real Slurm
docs/                  the documentation; update.py brings parts of it up to date from the code
results/               measured results, with the commands that made them
LOG.md                 dated findings, negative ones too, each with its command
.ci/run                what must hold before a change lands"""


def first_sentence(path: Path) -> str:
    """What a module says of itself, up to its first full stop or colon at a line's end."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?: |$)", paragraph)[0].rstrip(":.")


def lines() -> Iterator[str]:
    """The tree, a line per file."""
    for package in PACKAGES:
        yield from _directory(ROOT / package, 0)
    yield from OTHERS.splitlines()


def _directory(directory: Path, level: int) -> Iterator[str]:
    init = directory / "__init__.py"
    said = first_sentence(init) if init.exists() else {"benchmarks": "measurements of the code itself"}.get(directory.name, "")
    yield _line(level, f"{directory.name}/", said)
    modules = sorted(path for path in directory.glob("*.py") if path.name != "__init__.py")
    inner = [path for path in directory.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    rooms = sorted(inner, key=lambda path: (ORDER.index(path.name) if path.name in ORDER else len(ORDER), path.name))
    for path in modules:
        yield _line(level + 1, path.name, first_sentence(path))
    for path in rooms:
        yield from _directory(path, level + 1)


def _line(level: int, name: str, said: str) -> str:
    line = f"{'  ' * level + name:<23}{'' if len('  ' * level + name) < 23 else '  '}{said}".rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 4].rsplit(" ", 1)[0].rstrip(",;:") + " ..."


def with_tree(text: str) -> str:
    """CONTRIBUTING.md's text with the tree as it should be."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n```text\n" + "\n".join(lines()) + f"\n```\n{END}{after}"
