"""Compiled networks train what uncompiled ones train."""

import dataclasses
import os
import subprocess
import sys

import parallel
import pytest
import torch
from rich.console import Console

from raysp.data.sources import open_source
from raysp.engine.compiling import RECOMPILES
from raysp.engine.job import run_job
from raysp.engine.sweep import RunOptions, run_sweep
from raysp.methods.choices import Choice
from raysp.models import MODELS
from raysp.planning.plan import Plan, survey
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.records import Store
from raysp.store.tensor_files import load_tensors


def quick(precision="fp32"):
    """A chain of one epoch per stage."""
    digits = open_source("digits", None, None)
    builder = ChainBuilder(PRESETS["quick"], digits.config, width=4, epochs_scale=0.01, precision=precision)
    return builder.chain(Choice(budget=0.1, mask_method="random", d_th=0.1))


def run(leaf, root, **options):
    chosen = RunOptions(inline=True, gpus_per_stage=0, **options)
    return run_sweep([leaf], root, [open_source("digits", None, None)], chosen, labels={}, console=Console(quiet=True))


def test_precision_is_part_of_every_stages_identity():
    assert not set(Plan([quick()]).stages) & set(Plan([quick("bf16")]).stages)
    with pytest.raises(ValueError, match="one of 'fp32', 'bf16'"):
        quick("fp16")


def test_a_chain_trains_in_bf16_and_its_rows_say_so(tmp_path):
    assert run(quick("bf16"), tmp_path / "r").ok
    rows = [row for record in Store(root=tmp_path / "r").records()[0] for row in record["rows"]]
    assert {row["precision"] for row in rows} == {"bf16"}
    tensors = load_tensors(Store(root=tmp_path / "r").directory(quick("bf16")) / "weights.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} <= {torch.float32, torch.bool, torch.int64}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["gated", "senet", "snl", "batchnorm"])
def test_compiled_networks_train_what_others_do(case, tmp_path):
    found = {}
    for how in ("off", "on"):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        with Store(root=tmp_path / how).lock() as store:
            place = dataclasses.replace(parallel.place_for(store), compile=how)
            found[how] = run_job(parallel.stage(case), place, lambda figures: None)
    for a, b in zip(found["off"]["history"], found["on"]["history"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
        assert b.get("gamma") == a.get("gamma")
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    # Two networks, a whole and a last batch, and what changes in mid-training; far from the limit.
    assert 0 < counters["stats"]["unique_graphs"] <= 16 < RECOMPILES
    assert found["on"]["host"]["compile"] == "on"


def test_a_gate_that_changes_every_epoch_needs_no_new_code():
    torch.compiler.reset()
    model = parallel.network(0, gates=(0, 1)).train()
    expected = parallel.network(0, gates=(0, 1)).train()
    expected.load_state_dict(model.state_dict())
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model.compile(backend=count, dynamic=False)
    images = torch.randn(8, 1, 8, 8)
    for gamma in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        for network in (model, expected):
            network.set_gates(gamma)
        torch.testing.assert_close(model(images).logits, expected(images).logits)
    assert len(graphs) == 3


@pytest.mark.slow
def test_what_was_trained_compiled_is_found_by_others(tmp_path, monkeypatch):
    """A chain's four kinds of stage, on six convolutions instead of seventeen, each of which takes seconds to compile."""
    short = dataclasses.replace(MODELS["resnet18"], convs_per_stage=(2, 2, 2), width_multiples=(1, 2, 2))
    monkeypatch.setitem(MODELS, "resnet18", short)
    assert run(quick(), tmp_path / "r", compile="on").ok
    assert not survey(Plan([quick()]), Store(root=tmp_path / "r")).missing


def test_several_workers_are_not_compiled():
    with pytest.raises(ValueError, match="compile is on, and 2 workers_per_stage; expected one of them"):
        RunOptions(compile="on", workers_per_stage=2)


def test_a_machine_without_a_compiler_is_told_so(tmp_path):
    code = "import torch; from raysp.engine.compiling import check_compiler; check_compiler('on', torch.device('cpu'))"
    nothing = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | nothing, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ValueError: compile is on, but torch can't compile on this machine" in done.stderr
