"""A sweep of a network that lies in a file of its own, from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys

import own
import pandas as pd
import pytest
import torch
from commands import SWEEPS, sweep, sweep_here
from waiting import wait_for

from raysp import load_model
from raysp.models.costs import count_costs
from sweeps.axes import work_of
from sweeps.flags import RunFlags, SweepFlags

FLAGS = ["--model", "small:build", "--budgets", "0.2", "0.5", "--d-th", "0.6", "--epochs-scale", "0.1", "--gpus-per-stage", "0"]
BARE = "nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)"
BASELINE = ["baseline", "1", "0", "1", "0"]
"""Of a plan: one, not found, to train, no epochs."""
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn


@pytest.fixture
def here(tmp_path):
    own.write(tmp_path)
    return tmp_path


def table(root):
    return pd.read_csv(root / "results.csv").drop(columns="time_s")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with the source, and in `r` what has been trained of it in one process."""
    directory = tmp_path_factory.mktemp("trained")
    own.write(directory)
    done = sweep(*FLAGS, "--inline", "--storage", "r", cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory


def test_its_models_load_without_its_source_and_cost_what_the_rows_say(trained, here):
    shutil.copytree(trained / "r", here / "r")
    rows = table(here / "r")
    assert set(rows["model"]) == {"small:build"}
    assert rows["width"].isna().all()
    (here / "small.py").unlink()
    for row in rows[rows["mask_method"] != "none"].to_dict("records"):
        model = load_model(here / "r" / "stages" / f"finetune-{row['key'][:12]}")
        costs = count_costs(model, row["exit"])
        assert (costs.relus, costs.macs, costs.depth) == (row["relus"], row["macs"], row["depth"])
    # The same network by another name is found; an edited one isn't.
    own.write(here, "other")
    again = sweep("--model", "other:again", *FLAGS[2:], "--inline", "--storage", "r", cwd=here)
    assert again.returncode == 0 and "done " not in again.stdout
    edited = sweep("--model", "other:wider", *FLAGS[2:], "--inline", "--storage", "r", "--plan", cwd=here)
    assert edited.returncode == 0 and ["baseline", "1", "0", "1"] in [line.split()[:4] for line in edited.stdout.splitlines()]


@pytest.mark.slow
def test_killed_on_ray_and_started_again_it_ends_the_same(trained, here):
    command = [sys.executable, str(SWEEPS / "budget_sweep.py"), *FLAGS, "--address", "local", "--storage", "r"]
    # Only the driver reads the source: no worker is told where it lies.
    process = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ)
    wait_for(lambda: list((here / "r").glob("stages/baseline-*/record.json")), 120, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sweep(*FLAGS, "--address", "local", "--storage", "r", cwd=here)
    assert done.returncode == 0, done.stderr
    order = ["budget", "exit"]
    alone, killed = (table(where / "r").sort_values(order).reset_index(drop=True) for where in (trained, here))
    pd.testing.assert_frame_equal(alone, killed)


def test_given_weights_are_measured_and_everything_starts_from_them(here):
    torch.manual_seed(0)
    sys.path.insert(0, str(here))
    try:
        import small

        torch.save(small.build(10, 1).state_dict(), here / "w.pt")
    finally:
        sys.path.remove(str(here))
        sys.modules.pop("small", None)
    flags = [*FLAGS, "--mask-method", "taylor", "--baseline", "w.pt", "--inline", "--storage", "r"]
    plan = sweep(*flags, "--plan", cwd=here)
    assert plan.returncode == 0 and BASELINE in [line.split()[:5] for line in plan.stdout.splitlines()], plan.stderr
    assert not (here / "r").exists()
    done = sweep(*flags, cwd=here)
    assert done.returncode == 0, done.stderr
    (directory,) = (here / "r" / "stages").glob("baseline-*")
    record = json.loads((directory / "record.json").read_text())
    assert record["history"] == [] and record["rows"][0]["epochs"] == 0
    assert not (directory / "checkpoint.safetensors").exists()
    kept, given = load_model(directory).state_dict(), torch.load(here / "w.pt", weights_only=True)
    assert all(torch.equal(kept[name], given[name]) for name in given)
    assert sweep(*flags, cwd=here).stdout.count("found    ") == 4
    other = torch.load(here / "w.pt", weights_only=True)
    other["last.bias"] += 1
    torch.save(other, here / "w.pt")
    assert BASELINE in [line.split()[:5] for line in sweep(*flags, "--plan", cwd=here).stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "small:nothing"], "has no function nothing"),
        (["--model", "small:build", "--width", "4"], "--width with small:build"),
        (["--model", "small:build", "--ac-after", "2"], "expected a stage from 1 to 1 of small:build's 2"),
        (["--model", "small:build", "--ac-after", "relu_4"], "expected a stage from 1 to 1"),
        (["--model", "small:build", "--ac-after", "relu_7"], "raysp inspect shows them"),
        (["--relu6", "relu"], "--relu6 with resnet18, which has none"),
        (["--baseline", "missing.pt"], "missing.pt; expected a file of weights"),
        (["--model", "small:silu"], "SiLU isn't known"),
    ],
)
def test_slips_are_refused_before_anything_is_trained(arguments, message, here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    done = sweep_here(*arguments, monkeypatch=monkeypatch, capsys=capsys, cwd=here)
    sys.modules.pop("small", None)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("body", "given", "said"),
    [
        (BARE, {}, ["no block that could be gated", "has 1 stage:"]),
        (BARE, {"gate_blocks": (0,), "ac_after": ("none",)}, []),
        (None, {}, []),
    ],
)
def test_what_a_preset_asks_for_and_a_network_lacks_is_said(body, given, said, here, monkeypatch):
    (here / "bare.py").write_text(f"from torch import nn\ndef build(num_classes):\n    return nn.Sequential({body})\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    notes = work_of(SweepFlags(model=body and "bare:build", run=RunFlags(), **given), {}).notes
    sys.modules.pop("bare", None)
    assert len(notes) == len(said)
    assert all(text in note for text, note in zip(said, notes, strict=True)), notes
