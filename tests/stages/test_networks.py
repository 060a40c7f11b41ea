"""The whole chain of every built-in network, at its smallest."""

import pytest
from rich.console import Console

from raysp.data.sources import open_source
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.methods.choices import Choice
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS


@pytest.mark.parametrize("model", ["resnet34", "wrn22-8", "vgg16"])
def test_a_mask_is_found_and_fine_tuned(model, tmp_path):
    source = open_source("digits", 16 if model == "vgg16" else None, None)
    builder = ChainBuilder(PRESETS["quick"], source.config, model=model, width=4, epochs_scale=0.05)
    leaves = [builder.chain(Choice(budget=0.1, d_th=0.2, mask_method=method, ac_after=(2,))) for method in ("senet", "taylor")]
    outcome = run_sweep(
        leaves, tmp_path, [source], RunOptions(inline=True, gpus_per_stage=0), labels={}, console=Console(quiet=True)
    )
    assert outcome.ok, outcome.failed
