"""Sweeps as a user starts them, at their smallest."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

SWEEPS = Path(__file__).parents[2] / "sweeps"
TINY = ["--width", "4", "--epochs-scale", "0.1", "--budgets", "0.2", "--gpus-per-stage", "0"]


def sweep(*arguments, cwd, script="budget_sweep"):
    command = [sys.executable, str(SWEEPS / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, env={**os.environ, "COLUMNS": "200"})


def sweep_here(*arguments, monkeypatch, capsys, cwd, script="budget_sweep"):
    """The same in this process, which has imported torch and Ray already; for what ends before anything is trained."""
    program = str(SWEEPS / f"{script}.py")
    with monkeypatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", [program, *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    printed = capsys.readouterr()
    return subprocess.CompletedProcess(sys.argv, status, printed.out, printed.err)
