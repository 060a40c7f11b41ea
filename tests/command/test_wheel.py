"""The wheel, installed where no checkout is."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST = ["--width", "4", "--epochs-scale", "0.1", "--budgets", "0.2", "--gpus-per-stage", "0", "--address", "local"]


def run(*command, **options):
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=500, env=outside | {"COLUMNS": "200"}, **options
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout gets no build directory."""
    copy, built = tmp_path_factory.mktemp("source") / "raysp", tmp_path_factory.mktemp("wheel")
    copy.mkdir()
    for name in ("raysp", "analysis", "sweeps"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", copy, "--no-deps", "--wheel-dir", built, "--disable-pip-version-check"]
    with suppress(metadata.PackageNotFoundError):
        if int(metadata.version("setuptools").partition(".")[0]) >= 77:  # as pyproject.toml asks for; else pip gets it
            command.append("--no-build-isolation")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    (found,) = built.glob("raysp-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment's programs: the wheel in it, and this environment's packages behind it; its own .pth files, which
    would lead to a checkout, are not read there.
    """
    fresh = tmp_path_factory.mktemp("venv")
    assert run(sys.executable, "-m", "venv", "--without-pip", fresh).returncode == 0
    programs = fresh / "bin"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", programs / "python")
    done = run(*pip, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    own = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    behind = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(own) / "behind.pth").write_text("\n".join(behind) + "\n")
    return programs


@pytest.mark.slow
def test_the_wheel_has_the_packages_the_page_the_command_and_the_calibrations(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {str(path.relative_to(ROOT)) for room in ("raysp", "analysis", "sweeps") for path in (ROOT / room).rglob("*.py")}
    wanted |= {f"analysis/web/page.{kind}" for kind in ("html", "css", "js")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "raysp/latency/calibrations").glob("*.json")}
    assert wanted <= set(names)
    others = {name.partition("/")[0] for name in names} - {"raysp", "analysis", "sweeps"}
    assert all(name.endswith(".dist-info") for name in others), "nothing else would lie among other packages"


@pytest.mark.slow
def test_it_works_in_an_empty_directory(environment, tmp_path):
    code = "import raysp, analysis, sweeps; print(raysp.__file__, analysis.__file__, sweeps.__file__)"
    homes = run(environment / "python", "-c", code, cwd=tmp_path)
    assert all(Path(path).is_relative_to(environment.parent) for path in homes.stdout.split()), homes.stdout + homes.stderr
    first = run(environment / "raysp", "sweep", "budget", *SMALLEST, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    page = (tmp_path / "runs" / "quick" / "report.html").read_text()
    assert "<script" in page and "<style" in page
    second = run(environment / "raysp", "sweep", "budget", *SMALLEST, cwd=tmp_path)
    assert second.returncode == 0
    assert second.stdout.count("found    ") == 4 and "done " not in second.stdout
    report = run(environment / "raysp", "report", "runs/quick", "--out", "again", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    stage = next((tmp_path / "runs" / "quick" / "stages").glob("finetune-*"))
    taken = run(environment / "raysp", "export", stage, "--format", "torch", "--out", "taken", cwd=tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert {path.name for path in (tmp_path / "taken").iterdir()} == {"model.pt2", "card.json", "card.md"}
