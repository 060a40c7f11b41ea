"""One tiny finished sweep for all tests of the documentation."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory):
    """The results directory of the main job in quick size."""
    directory = tmp_path_factory.mktemp("docs")
    wrapper = [sys.executable, str(ROOT / "tests/docs/quick_size.py"), "python", str(ROOT / "sweeps/budget_sweep.py")]
    subprocess.run(wrapper, cwd=directory, check=True, capture_output=True, timeout=300)
    return directory / "runs" / "quick"
