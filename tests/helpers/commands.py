"""Sweeps as a user starts them, at their smallest."""

import os
import subprocess
import sys
from pathlib import Path

SWEEPS = Path(__file__).parents[2] / "sweeps"
TINY = ["--width", "4", "--epochs-scale", "0.1", "--budgets", "0.2", "--gpus-per-stage", "0"]


def sweep(*arguments, cwd, script="budget_sweep"):
    command = [sys.executable, str(SWEEPS / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, env={**os.environ, "COLUMNS": "200"})
