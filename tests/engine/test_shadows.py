"""Files in the way of packages."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from commands import TINY, sweep
from rich.console import Console
from toy import toy

from raysp.engine.options import RunOptions
from raysp.engine.shadows import PACKAGES, first_directories, refuse_shadows, shadows, workers_directories
from raysp.engine.sweep import run_sweep


@pytest.mark.parametrize("name", ["torch.py", "ray/__init__.py", "numpy.pyc", "pandas.abi3.so"])
def test_what_would_be_imported_in_place_of_a_package_is_found(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert shadows([tmp_path, tmp_path / "." / "none", tmp_path]) == [path]
    package = name.partition(".")[0].partition("/")[0]
    with pytest.raises(ValueError, match=f"would be imported in place of the package {package}; rename it"):
        refuse_shadows([tmp_path])


@pytest.mark.parametrize("name", ["torchy.py", "my_torch.py", "torch.txt", "ray/data.txt", "raysp/__init__.py", "torch.py/x"])
def test_what_is_in_nobody_s_way_is_not(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert shadows([tmp_path]) == []
    refuse_shadows([tmp_path])


def test_installed_packages_are_not_in_their_own_way():
    assert shadows([Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]) == []


def test_all_that_raysp_requires_is_looked_for():
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    modules = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml", "universal-pathlib": "upath"}
    required = {re.split(r"[\[>]", line)[0] for line in settings["project"]["dependencies"]}
    assert len(required) > 20 and {modules.get(name, name) for name in required} <= set(PACKAGES)


def test_a_sweep_on_ray_is_refused_and_one_without_is_not(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('mine')")
    done = sweep(*TINY, "--address", "local", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {tmp_path / 'torch.py'} would be imported in place of the package torch; rename it, or start this in another "
        "directory\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["torch.py"]
    done = sweep(*TINY, "--inline", "--plan", cwd=tmp_path)
    assert done.returncode == 0, "a program that is started by its path doesn't look there"


def test_with_python_m_nothing_is_imported_before_it_is_refused(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('mine')")
    command = [sys.executable, "-m", "raysp", "sweep", "budget", "--inline", "--plan"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path / 'torch.py'} would be imported in place of")


def test_a_directory_that_is_gone_hides_nothing(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert workers_directories() == first_directories()


def test_a_sweep_from_python_is_refused_too(tmp_path, monkeypatch):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="in place of the package numpy"):
        run_sweep([toy()], tmp_path / "run", [], RunOptions(address="local"), labels={}, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
