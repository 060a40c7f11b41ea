import pytest
import reference
import torch
from torch.utils.flop_counter import FlopCounterMode

from raysp.costs import count_costs
from raysp.models import build_model
from raysp.models.collapse import collapse, drop_main_branches
from raysp.models.relu import MaskedReLU


def randomise(model, seed=0, share=0.3):
    """Masks, batch-norm statistics and affine parameters away from their defaults."""
    torch.manual_seed(seed)
    for layer in model.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < share)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return model


def gated(name, ac_after=None, blocks=(0, 2), **kwargs):
    model = randomise(build_model(name, num_classes=7, image_size=16, width=4, **kwargs))
    for index in blocks:
        model.blocks()[index][1].add_shallow_branch(3)
    if ac_after:
        model.add_exit(ac_after, "pool")
    return model.eval()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_masked_relu_against_the_product_form(share):
    relu = MaskedReLU((3, 4, 5))
    mask = torch.rand(3, 4, 5) < share
    relu.set_mask(mask)
    assert relu.kept == int(mask.sum())
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    expected = reference.masked_relu(x, mask)
    assert torch.equal(relu(x), expected)
    (got,) = torch.autograd.grad((relu(x) * weights).sum(), x)
    (want,) = torch.autograd.grad((expected * weights).sum(), x)
    assert torch.equal(got, want)
    assert torch.autograd.gradcheck(relu, (x,))


def test_masked_relu_has_no_gradient_at_zero_like_relu():
    relu = MaskedReLU((1, 1, 2))
    relu.set_mask(torch.tensor([[[True, False]]]))
    x = torch.zeros(1, 1, 1, 2, requires_grad=True)
    relu(x).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 1.0]


def test_masks_survive_a_state_dict_and_bad_ones_are_refused():
    one, two = MaskedReLU((2, 3, 3)), MaskedReLU((2, 3, 3))
    one.set_mask(torch.rand(2, 3, 3) < 0.5)
    two.load_state_dict(one.state_dict())
    x = torch.randn(4, 2, 3, 3)
    assert two.kept == one.kept
    assert torch.equal(two(x), one(x))
    with pytest.raises(ValueError, match=r"expected torch\.bool"):
        one.set_mask(torch.ones(2, 3, 3))


@pytest.mark.parametrize(
    ("name", "relus", "macs", "depth", "layers"),
    [("resnet18", 557_056, 555_468_800, 16, 17), ("wrn22-8", 1_392_640, None, 18, 19)],
)
def test_published_totals(name, relus, macs, depth, layers):
    with torch.device("meta"):
        model = build_model(name, num_classes=100)
        sizes = [layer.relu.size for layer in model.relu_layers()]
    assert (sum(sizes), len(sizes), sum(b.depth for _, b in model.blocks())) == (relus, layers, depth)
    if macs:
        costs = count_costs(build_model(name, num_classes=100))
        assert (costs.relus, costs.macs, costs.depth) == (relus, macs, depth)


@pytest.mark.parametrize(("merges", "saving"), [(2, 1.157), (3, 1.256), (4, 1.373)])
def test_published_mac_savings_of_merged_identity_blocks(merges, saving):
    model = build_model("resnet18", num_classes=100)
    baseline = count_costs(model)
    identity_blocks = [b for _, b in model.blocks() if b.stride == 1][:merges]
    for block in identity_blocks:
        block.add_shallow_branch(3)
    merged = count_costs(model)
    assert round(baseline.macs / merged.macs, 3) == saving
    assert merged.depth == 16 - merges


@pytest.mark.parametrize("name", ["resnet18", "wrn22-8"])
@pytest.mark.parametrize("exit_name", ["final", "ac1", "ac2"])
def test_macs_against_torchs_own_counter(name, exit_name):
    model = gated(name, ac_after=int(exit_name[2:]) if exit_name != "final" else None)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        collapse(model, exit_name)(model.example_input())
    assert count_costs(model, exit_name).macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["resnet18", "wrn22-8"])
@pytest.mark.parametrize("exit_name", ["final", "ac2"])
def test_collapsed_outputs_equal_the_gated_networks_at_gamma_1(name, exit_name):
    model = gated(name, ac_after=2)
    x = torch.randn(5, 3, 16, 16)
    model.set_gates(1.0)
    plain = collapse(model, exit_name)
    got = plain(x).logits
    assert list(got) == [exit_name]
    torch.testing.assert_close(got[exit_name], model(x).logits[exit_name], rtol=0, atol=1e-5)
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in model.parameters())
    assert model.blocks()[0][1].conv1 is not None, "the original must stay as it is"


@pytest.mark.parametrize("name", ["resnet18", "wrn22-8"])
def test_the_gate_mixes_its_branches(name):
    model = gated(name, blocks=(1,))
    block = model.blocks()[1][1]
    x = torch.rand(2, model.blocks()[0][1].num_out, 16, 16)

    def at(gate):
        block.gate = gate
        return block._branches(x)

    torch.testing.assert_close(at(0.25), 0.25 * at(1.0) + 0.75 * at(0.0))
    assert not torch.allclose(at(0.0), at(1.0))


@pytest.mark.parametrize(("gate", "silent"), [(0.0, "shallow"), (1.0, "main")])
def test_at_the_ends_only_one_branch_is_computed(gate, silent):
    model = gated("resnet18", blocks=(0,))
    block = model.blocks()[0][1]
    block.gate = gate
    called = []
    block.conv1.register_forward_hook(lambda *_: called.append("main"))
    block.shallow.register_forward_hook(lambda *_: called.append("shallow"))
    model(torch.randn(1, 3, 16, 16))
    assert called
    assert silent not in called


def test_collapsing_drops_the_inner_relus_only():
    model = gated("resnet18", blocks=(0, 2))
    inner = sum(model.blocks()[i][1].inner_relu.kept for i in (0, 2))
    total = sum(layer.relu.kept for layer in model.relu_layers())
    assert count_costs(model).relus == total - inner
    assert count_costs(drop_main_branches(model)).relus == total - inner


def test_an_exit_drops_all_that_lies_behind_it():
    model = gated("resnet18", ac_after=3, blocks=())
    kept = sum(layer.relu.kept for layer in model.relu_layers() if not layer.name.startswith("stages.3"))
    costs = count_costs(model, "ac3")
    assert (costs.relus, costs.depth) == (kept, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "expected one of resnet18, wrn22-8"),
        ({"width": 0}, "at least 1"),
        ({"image_size": 12}, "multiple of 8"),
        ({"image_size": 0}, "multiple of 8"),
        ({"num_classes": 1}, "at least 2"),
    ],
)
def test_bad_networks_are_refused(arguments, message):
    arguments = {"name": "resnet18", "num_classes": 10} | arguments
    with pytest.raises(ValueError, match=message):
        build_model(arguments.pop("name"), **arguments)


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_exits_only_after_inner_stages(stage):
    with pytest.raises(ValueError, match="from 1 to 3"):
        build_model("resnet18", num_classes=3, image_size=8, width=2).add_exit(stage, "pool")
