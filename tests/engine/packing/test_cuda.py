"""Two stages on a real GPU, measured side by side, and MPS; skipped where there is none. Needs no Ray."""

import os
import subprocess
import sys

import pytest
import torch

from raysp.data.config import DataConfig
from raysp.engine.packing import mps
from raysp.engine.packing.crowd import Trial, measure
from raysp.engine.packing.rule import Bound, kept, told
from raysp.methods.choices import Choice
from raysp.planning.plan import Plan
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.keys import key_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def trial(**options):
    data = DataConfig(name="cifar100", num_classes=100, image_size=32, crop_padding=4)
    build = ChainBuilder(PRESETS["cifar100"], data, width=16, epochs_scale=1.0)
    plan = Plan([build.chain(Choice(budget=0.1, d_th=0.2))])
    sizes = {key_of(data): {"train": 45_000, "val": 5_000, "test": 10_000}}
    return Trial(stages=list(plan.stages.values()), at_once=2, sizes=sizes, seconds=1.0, **options)


@pytest.mark.parametrize("cuda_graph", ["off", "on"])
def test_two_stages_are_measured_side_by_side(cuda_graph):
    with mps.started() as packed:
        found = measure(trial(cuda_graph=cuda_graph), 2)
    print(told(found, Bound(2, "no more were asked for"), packed.said), found)  # for the rental
    assert found.failed == "" and set(found.rates) == {1, 2} and min(found.rates.values()) > 0
    assert kept(found.rates) in (1, 2)
    assert found.room is not None and 0.2e9 < found.memory < 10e9 < found.room


def test_mps_serves_what_the_block_starts_and_is_gone_afterwards():
    was_running = mps.answers()
    with mps.started() as found:
        if not found.is_on:
            pytest.skip(found.said)
        code = "import torch; print(float(torch.ones(8, device='cuda').sum()))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout == "8.0\n"
        servers = subprocess.run([mps.CONTROL], input="get_server_list\n", capture_output=True, text=True, check=True, timeout=60)
        assert servers.stdout.split(), "nobody was served"
        assert mps.answers()
        directory = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "")
    assert mps.answers() == was_running
    assert was_running or not os.path.exists(directory)  # noqa: PTH110 (it may be no path at all)
