"""What is imported, and what isn't: seconds of a machine aren't measured, modules are counted."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import raysp
import raysp.pi
from analysis import report

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "torchvision", "ray", "pandas", "matplotlib", "scipy", "sklearn", "plotly", "pyarrow", "moocore", "numpy", "PIL",
    "fsspec",
)  # fmt: skip
PROBE = """
import runpy, sys
how, name, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = name
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True) if how == "module" else runpy.run_path(name, run_name="__main__")
except SystemExit as ended:
    status = ended.code
print("STATUS", status, *sorted({module.partition(".")[0] for module in sys.modules}))
"""


def imported(how, name, *arguments, cwd):
    """The exit status of a command, and the packages that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, how, str(name), *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )
    assert done.stdout.count("STATUS") == 1, done.stderr
    status, *packages = done.stdout.partition("STATUS ")[2].split()
    return int(status), {name for name in HEAVY if name in packages}


COMMANDS = [
    ("module", "raysp", "sweep", "budget"),
    ("module", "raysp", "sweep", "paper"),
    ("module", "raysp", "report"),
    ("module", "raysp", "pi", "measure"),
    ("module", "raysp", "export"),
    ("module", "raysp", "doctor"),
    ("path", ROOT / "sweeps" / "mask_sweep.py"),
    ("path", ROOT / "sweeps" / "paper.py"),
    ("module", "analysis.report"),
    ("module", "raysp.pi", "predict"),
    ("module", "raysp.export"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(str(word).rpartition("/")[2] for word in command[1:]))
def test_help_and_slips_import_nothing_heavy(command, tmp_path):
    assert imported(*command, "--help", cwd=tmp_path) == (0, set())
    assert imported(*command, "--misspelt", cwd=tmp_path) == (2, set())


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sweap",),
        ("sweep",),
        ("sweep", "budget", "--preset", "fast"),
        ("sweep", "budget", "--budgets", "many"),
        ("sweep", "budget", "--budgets"),
        ("sweep", "budget", "--model", ""),
        ("sweep", "budget", "--width", "None"),
        ("sweep", "budget", "--threads-per-stage", "0"),
        ("sweep", "budget", "--compile", "fast"),
        ("sweep", "budget", "--inline", "--address", "local"),
        ("sweep", "paper", "table3"),
        ("report",),
        ("report", "x", "--max-relus", "many"),
        ("report", "x", "--every", "0"),
        ("export", "x", "--format", "pdf"),
        ("pi", "measure", "x", "--protocol", "fast"),
    ],
    ids=" ".join,
)
def test_what_parsing_refuses_imports_nothing_heavy(arguments, tmp_path):
    assert imported("module", "raysp", *arguments, cwd=tmp_path) == (2, set())


def test_the_version_imports_nothing_heavy(tmp_path):
    assert imported("module", "raysp", "--version", cwd=tmp_path)[1] == set()


@pytest.mark.parametrize("arguments", [("--budgets", "0"), ("--d-th", "2"), ("--ac-after", "9"), ("--model", "resnet19")])
def test_a_plan_of_a_wrong_value_imports_torch_and_little_else(arguments, tmp_path):
    status, packages = imported("module", "raysp", "sweep", "budget", "--plan", *arguments, cwd=tmp_path)
    assert status == 2
    assert packages <= {"torch", "numpy", "PIL", "fsspec"}


@pytest.mark.parametrize("package", [raysp, raysp.pi, report], ids=lambda package: package.__name__)
def test_a_package_offers_lazily_what_its_types_say(package):
    """The names under TYPE_CHECKING, for editors and type checkers, are those that are got at run time."""
    tree = ast.parse(inspect.getsource(package))
    block = next(node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING")
    typed = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert set(typed) == set(package.__all__)
    for name, module in typed.items():
        assert getattr(package, name) is getattr(sys.modules[module], name)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = package.nonsense


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    code = """
import sys, raysp, raysp.pi
print(*{module.partition(".")[0] for module in sys.modules})
raysp.MODELS
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    before, after = done.stdout.splitlines()
    assert not set(before.split()) & set(HEAVY)
    assert after == "True"
