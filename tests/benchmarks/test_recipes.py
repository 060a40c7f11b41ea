"""Recipes side by side: which models count, what they stand on, and the figures that are printed."""

import json
import subprocess
import sys
from pathlib import Path

from records import commit, row

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recipes.py"


def teach(root, seed):
    """An all-ReLU network, two students of one recipe, and one of another, which stand on it."""
    mask = {"mask_method": "none", "budget": 1000, "relus": 1000, "val_accuracy": 90.0}
    teacher = commit(root, [row(seed=seed, **mask)], history=[{"epoch": 1}] * 5, time_s=3600.0)
    parent = {"baseline": {"stage": "toy", "key": json.loads((teacher / "record.json").read_text())["key"]}}
    for accuracy, method, macs in ((80.0, "senet", 900), (84.0, "taylor", 900), (70.0, "taylor", 300)):
        if seed == 0 or macs != 300:  # a model that one seed lacks counts for none
            commit(
                root,
                [row(seed=seed, mask_method=method, val_accuracy=accuracy, macs=macs, relus=100, depth=10)],
                parents=parent,
                history=[{"epoch": 1}] * 2,
            )


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False)


def test_each_recipe_has_its_front_its_volume_and_what_it_took(tmp_path):
    for seed in (0, 1):
        teach(tmp_path / "runs", seed)
    picture = tmp_path / "fronts.png"
    done = run(tmp_path / "runs", "--out", picture, "--recipe", "theirs=mask_method == 'senet'", "ours=mask_method == 'taylor'")
    assert done.returncode == 0, done.stderr
    theirs, ours = (line.split("|")[1:-1] for line in done.stdout.splitlines() if "± " in line)
    assert theirs[0].strip() == "theirs" and ours[0].strip() == "ours"
    assert theirs[1].strip() == ours[1].strip() == "2" and ours[2].strip() == "1", "only what both seeds have"
    assert float(ours[3].split("±")[0]) > float(theirs[3].split("±")[0]) > 0
    assert float(ours[4].split("±")[0]) > 1 and float(theirs[4].split("±")[0]) == 1
    assert theirs[5].strip() == "14" and theirs[6].strip() == "2.00", "its own epochs, and those of what it stands on"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_query_that_names_nothing_is_refused(tmp_path):
    teach(tmp_path / "runs", 0)
    done = run(tmp_path / "runs", "--out", tmp_path / "fronts.png", "--recipe", "none=mask_method == 'gone'")
    assert done.returncode != 0 and "no model is \"mask_method == 'gone'\"" in done.stderr
