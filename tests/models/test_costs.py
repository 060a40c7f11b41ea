import pytest
import reference
import torch
from networks import NAMES, gated
from torch.utils.flop_counter import FlopCounterMode

from raysp.models import build_model
from raysp.models.collapse import collapse, drop_main_branches
from raysp.models.costs import count_costs


@pytest.mark.parametrize(("merges", "saving"), [(2, 1.157), (3, 1.256), (4, 1.373)])
def test_published_mac_savings_of_merged_identity_blocks(merges, saving):
    model = build_model("resnet18", num_classes=100)
    baseline = count_costs(model)
    identity_blocks = [b for _, b in model.gated_blocks() if b.convs[0].stride == (1, 1)][:merges]
    for block in identity_blocks:
        block.add_shallow_branch(3)
    merged = count_costs(model)
    assert round(baseline.macs / merged.macs, 3) == saving
    assert merged.depth == 16 - merges


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exit_name", ["final", "ac1", "ac2"])
@pytest.mark.parametrize(("kernel", "head"), [(3, "pool"), (5, "bottleneck"), (3, "grid")])
def test_macs_against_torchs_own_counter(name, exit_name, kernel, head):
    model = gated(name, ac_after=int(exit_name[2:]) if exit_name != "final" else None, kernel=kernel, head=head)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        collapse(model, exit_name)(model.example_input())
    assert count_costs(model, exit_name).macs == counter.get_total_flops() // 2


def test_collapsing_drops_the_inner_relus_only():
    model = gated("resnet18", blocks=(0, 2))
    inner = sum(model.gated_blocks()[i][1].inner_relu.kept for i in (0, 2))
    total = sum(layer.relu.kept for layer in model.relu_layers())
    assert count_costs(model).relus == total - inner
    assert count_costs(drop_main_branches(model)).relus == total - inner


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("exit_name", "head"), [("final", "bottleneck"), ("ac2", "bottleneck"), ("ac2", "grid")])
def test_costs_against_a_slow_count_by_hooks(name, exit_name, head):
    model = gated(name, ac_after=2, head=head)
    got = count_costs(model, exit_name)
    relus, macs, params = reference.count_by_hooks(collapse(model, exit_name))
    assert (got.relus, got.macs, got.params) == (relus, macs, params)


@pytest.mark.parametrize("exit_name", ["final", "ac3"])
def test_the_layers_of_the_costs_add_up_to_the_totals(exit_name):
    model = gated("resnet18", ac_after=3)
    costs = count_costs(model, exit_name)
    table = costs.table()
    assert {name: int(table[name].sum()) for name in costs.totals()} == costs.totals()
    shallow = table[table["layer"] == "stages.0.0.shallow.0"]
    assert shallow[["kind", "depth"]].to_numpy().tolist() == [["conv 3x3, stride 1", 1]]
    assert not table["layer"].str.contains("inner_relu").loc[table["layer"].str.startswith("stages.0.0")].any()
    assert table[table["depth"] == 1]["layer"].str.startswith("stages.").all()


@pytest.mark.parametrize("name", NAMES)
def test_relu_layers_have_the_names_that_masks_know_them_by(name):
    model = build_model(name, num_classes=10, image_size=16, width=4)
    table = count_costs(model).table()
    assert table[table["kind"] == "ReLU"]["layer"].tolist() == [layer.name for layer in model.relu_layers()]


@pytest.mark.parametrize(
    ("head", "relus", "macs"), [("pool", 0, 25_600), ("grid", 0, 16 * 25_600), ("bottleneck", 2_048, 4_245_504)]
)
def test_auxiliary_heads_cost_next_to_no_relus(head, relus, macs):
    model = build_model("resnet18", num_classes=100)
    model.add_exit(3, head)
    table = count_costs(model, "ac3").table()
    of_head = table[table["layer"].str.startswith("heads")]
    assert (of_head["relus"].sum(), of_head["macs"].sum(), of_head["depth"].sum()) == (relus, macs, 0)
