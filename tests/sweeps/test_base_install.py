"""What the base install does, tried with all extras' packages hidden: it trains, and says what needs which extra."""

import json
import subprocess
import sys

import pytest
from commands import SWEEPS, TINY
from toy import HELPERS
from without import EXTRAS

ONE_AFTER_ANOTHER = """
import importlib, json, pkgutil, runpy, sys

for package in ("raysp", "analysis", "sweeps"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        # A tracker's own module is imported in that tracker's process alone.
        if not module.name.endswith("__main__") and ".tracking.to_" not in module.name:
            importlib.import_module(module.name)
for sys.argv in json.loads(sys.argv[1]):
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    print("status", status, flush=True)
"""
"""Imports all modules but trackers', then runs several command lines: a process for each would import torch and Ray anew."""
NEEDS = {
    (
        "--measure-pi",
        "front",
    ): "private inference needs spu and jax: pip install -e '.[pi]' where raysp lies (Python 3.11 or 3.12)",
    ("--storage", "s3://bucket/run"): "storage s3://bucket/run needs a package that is not here (Install s3fs to access S3); "
    "pip install -e '.[s3]' where raysp lies, on every node",
    (
        "--search",
        "optuna",
        "--d-th",
        "0.1",
        "0.3",
        "--trials",
        "2",
    ): "search 'optuna' can't be used: Optuna must be installed! Run `pip install optuna`.",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The directory in which all was run, and what each command line printed, its status first."""
    directory = tmp_path_factory.mktemp("base")
    (directory / "all.py").write_text(ONE_AFTER_ANOTHER)
    start = [str(SWEEPS / "budget_sweep.py"), *TINY, "--inline", "--storage"]
    lines = [[*start, f"refused-{number}", *flags] for number, flags in enumerate(NEEDS)] + [[*start, "trained"]]
    command = [sys.executable, str(HELPERS / "without.py"), ",".join(EXTRAS), "all.py", json.dumps(lines)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=directory, timeout=300)
    assert done.returncode == 0, done.stdout
    *said, end = done.stdout.split("\nstatus ")
    assert not end.partition("\n")[2]
    statuses = [*(part.partition("\n")[0] for part in said[1:]), end.strip()]
    texts = [said[0], *(part.partition("\n")[2] for part in said[1:])]
    return directory, [(int(status), text) for status, text in zip(statuses, texts, strict=True)]


def test_what_needs_an_extra_trains_nothing_and_one_line_says_what_to_install(ran):
    directory, said = ran
    assert [(status, text.splitlines()[-1]) for status, text in said[:-1]] == [(2, f"error: {line}") for line in NEEDS.values()]
    assert not (directory / "refused-0").exists() and not list(directory.glob("refused-*/stages/*"))


def test_all_else_needs_none(ran):
    directory, said = ran
    assert said[-1][0] == 0, said[-1][1]
    assert len((directory / "trained" / "results.csv").read_text().splitlines()) == 1 + 3
    assert (directory / "trained" / "report.html").exists()
