import pytest
import reference
import torch
from networks import NAMES, gated

from raysp.models import build_model, network_of
from raysp.models.collapse import collapse, fold_batchnorm, steep_norms
from raysp.models.costs import count_costs
from raysp.models.exits import grid_size
from raysp.models.relu import MaskedReLU


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


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 1)])
def test_a_real_alpha_stands_in_for_the_mask(shape):
    relu = MaskedReLU((3, 4, 5)).double()
    relu.alpha = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    want = relu.alpha * torch.relu(x) + (1 - relu.alpha) * x
    torch.testing.assert_close(relu(x), want)
    for g, w in zip(
        torch.autograd.grad(relu(x).square().sum(), (x, relu.alpha)),
        torch.autograd.grad(want.square().sum(), (x, relu.alpha)),
        strict=True,
    ):
        torch.testing.assert_close(g, w)
    assert "alpha" not in relu.state_dict()


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
    [
        ("resnet18", 557_056, 555_468_800, 16, 17),
        ("resnet34", 966_656, None, 32, 33),
        ("wrn22-8", 1_392_640, None, 18, 19),
        ("vgg16", 276_480, None, 12, 13),
    ],
)
def test_published_totals(name, relus, macs, depth, layers):
    with torch.device("meta"):
        model = build_model(name, num_classes=100)
        sizes = [layer.relu.size for layer in model.relu_layers()]
    assert (sum(sizes), len(sizes), count_costs(model).depth) == (relus, layers, depth)
    with torch.device("meta"):
        larger = build_model(name, num_classes=200, image_size=64)
    assert larger.num_relus() == 4 * relus
    if macs:
        costs = count_costs(build_model(name, num_classes=100))
        assert (costs.relus, costs.macs, costs.depth) == (relus, macs, depth)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exit_name", ["final", "ac2"])
@pytest.mark.parametrize(("kernel", "head"), [(3, "pool"), (5, "bottleneck"), (3, "grid")])
def test_collapsed_outputs_equal_the_gated_networks_at_gamma_1(name, exit_name, kernel, head):
    model = gated(name, ac_after=2, kernel=kernel, head=head)
    x = torch.randn(5, 3, 16, 16)
    model.set_gates(1.0)
    plain = collapse(model, exit_name)
    got = plain(x).logits
    assert list(got) == [exit_name]
    torch.testing.assert_close(got[exit_name], model(x).logits[exit_name], rtol=0, atol=1e-5)
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in model.parameters())
    assert "stages.1.0.conv1.weight" in model.state_dict(), "the original must stay as it is"


def branches(model, index):
    """A block's shallow and main branch as functions, and the input of both."""
    block, seen = model.gated_blocks()[index][1], {}
    hooks = [block.main_ends()[0].register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))]
    model(torch.randn(2, 3, 16, 16, dtype=next(model.parameters()).dtype))
    hooks[0].remove()
    norm, (first, second) = model.get_submodule(block.chain.inner.replace("inner_relu", "bn1")), block.convs
    last = block.main_ends()[1]

    def main(x):
        y = second(block.inner_relu(norm(first(x))))
        return y if last is second else last(y)

    return block, main, seen["x"].detach()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gate", [0.0, 0.25, 1.0])
def test_the_gate_mixes_its_branches(name, gate):
    model = gated(name, blocks=(1,))
    block, main, x = branches(model, 1)
    block.gate = gate
    read = []
    block.main_ends()[0].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].clone()))
    block.shallow[0].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].clone()))
    mixed = []
    reader = next(n for n in model.graph.nodes if block.chain.gate in n.inputs)
    layer = model.module_at(reader.module) if reader.module else None
    if layer is None:  # a sum: its other input is the skip, which the block's last ReLU or the next block reads
        expected = gate * block.shallow(x) + (1 - gate) * main(x)
        assert not torch.allclose(block.shallow(x), main(x))
        direct = model.module_at(block.chain.gate)(block.shallow(x), main(x))
        torch.testing.assert_close(direct, expected)
    else:
        layer.register_forward_pre_hook(lambda module, inputs: mixed.append(inputs[0].clone()))
        x_image = torch.randn(2, 3, 16, 16)
        model(x_image)
        expected = gate * block.shallow(read[0]) + (1 - gate) * main(read[0])
        torch.testing.assert_close(mixed[0], expected)


@pytest.mark.parametrize("gate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_gates_gradient_is_autograds_of_the_formula(name, gate):
    model = gated(name, blocks=(1,)).double()
    block, main, x = branches(model, 1)
    model.module_at(block.chain.gate).gamma = gate
    leaves = [x.requires_grad_(), block.convs[0].weight, block.shallow[0].weight]
    got = model.module_at(block.chain.gate)(block.shallow(x), main(x))
    want = gate * block.shallow(x) + (1 - gate) * main(x)
    weights = torch.randn_like(got)
    for g, w in zip(
        torch.autograd.grad((got * weights).sum(), leaves),
        torch.autograd.grad((want * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("gate", "silent"), [(0.0, "shallow"), (1.0, "main")])
def test_at_the_ends_only_one_branch_is_computed(gate, silent):
    model = gated("resnet18", blocks=(0,))
    block = model.gated_blocks()[0][1]
    block.gate = gate
    called = []
    block.convs[0].register_forward_hook(lambda *_: called.append("main"))
    block.shallow[0].register_forward_hook(lambda *_: called.append("shallow"))
    model(torch.randn(1, 3, 16, 16))
    assert called
    assert silent not in called


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("exit_name", "head"), [("final", "bottleneck"), ("ac2", "bottleneck"), ("ac2", "grid")])
def test_folded_batch_norms_leave_the_outputs_as_they_are(name, exit_name, head):
    plain = collapse(gated(name, ac_after=2, head=head), exit_name)
    folded = fold_batchnorm(plain)
    x = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        before, after = plain(x).logits[exit_name], folded(x).logits[exit_name]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    norms = [n for n, m in folded.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    if name == "wrn22-8":  # those behind an addition can't be folded
        assert norms
        assert all(n.endswith("bn0") or n.startswith("heads") for n in norms)
    else:
        assert not norms
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules()), "the original must stay as it is"


def test_vggs_gated_blocks_are_pairs_at_one_resolution():
    model = build_model("vgg16", num_classes=10, width=4)
    assert [name for name, _ in model.gated_blocks()] == ["stages.1.0", "stages.2.0", "stages.3.0", "stages.4.0"]
    shapes = model.shapes()
    assert all(shapes[block.chain.inner] == shapes[block.chain.last] for _, block in model.gated_blocks())


@pytest.mark.parametrize("head", ["pool", "grid"])
def test_a_preactivated_networks_auxiliary_head_has_no_relu(head):
    model = build_model("wrn22-8", num_classes=10, width=4)
    model.add_exit(2, head)
    assert not [m for m in model.module_at("heads.ac2").modules() if isinstance(m, MaskedReLU)]


@pytest.mark.parametrize(("size", "grid"), [(32, 4), (16, 4), (8, 4), (4, 4), (2, 2), (1, 1), (12, 4), (6, 3), (10, 5), (7, 7)])
def test_a_grid_of_equal_cells_is_as_near_to_4x4_as_the_map_allows(size, grid):
    assert grid_size(size) == grid


@pytest.mark.parametrize("name", ["resnet18", "wrn22-8"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_grid_heads_logits_are_a_linear_function_of_the_cells_means(name, stage):
    model = gated(name, ac_after=stage, blocks=(), head="grid")
    head, maps = model.module_at(f"heads.ac{stage}"), []
    head[0].register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        got = model(torch.randn(2, 3, 16, 16)).logits[f"ac{stage}"]
        (x,) = maps
        if name == "wrn22-8":
            x = head[0](x)
        cell = x.shape[-1] // 4
        means = [
            x[:, c, cell * i : cell * (i + 1), cell * j : cell * (j + 1)].mean(dim=(1, 2))
            for c in range(x.shape[1])
            for i in range(4)
            for j in range(4)
        ]
        torch.testing.assert_close(got, torch.stack(means, dim=1) @ head[-1].weight.T + head[-1].bias)


@pytest.mark.parametrize("name", NAMES)
def test_the_features_are_the_stages_maps_after_their_relu(name):
    model = build_model(name, num_classes=5, image_size=16, width=4).eval()
    before = {layer.relu: [] for layer in model.relu_layers()}
    for relu, seen in before.items():
        relu.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
    with torch.no_grad():
        features = model(torch.randn(2, 3, 16, 16)).features
    shapes = model.shapes()
    assert [tuple(f.shape[1:]) for f in features] == [shapes[point] for point in model.origin.points]
    maps = [output for seen in before.values() for output in seen]
    assert all(len(seen) == 1 for seen in before.values()), "no ReLU may be computed twice"
    for feature in features:
        assert any(feature is m or (feature.shape == m.shape and torch.equal(feature, m)) for m in maps)
        assert feature.min() >= 0


def test_an_exit_drops_all_that_lies_behind_it():
    model = gated("resnet18", ac_after=3, blocks=())
    kept = sum(layer.relu.kept for layer in model.relu_layers() if not layer.name.startswith("stages.3"))
    costs = count_costs(model, "ac3")
    assert (costs.relus, costs.depth) == (kept, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "expected one of resnet18, resnet34, wrn22-8, vgg16"),
        ({"width": 0}, "width 0; expected 1 to"),
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


def test_exits_stand_in_the_order_of_their_places():
    plain = torch.nn.Sequential(*(m for _ in range(12) for m in (torch.nn.Conv2d(1, 1, 3), torch.nn.ReLU())))
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.ReLU(), plain, torch.nn.Flatten())
    model = network_of(module, name="long", num_classes=6 * 6, image_size=32, in_channels=1)
    for stage in (10, 2):
        model.add_exit(stage, "pool")
    assert model.exit_names == ("ac2", "ac10", "final")


def test_a_channel_without_variance_is_named_though_torch_s_epsilon_bounds_what_it_is_multiplied_by():
    model = gated("resnet18")
    assert steep_norms(model) == ""
    name, norm = next((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_var[0] = 1e-10
    assert norm.eps == 1e-5
    assert steep_norms(model).startswith(f"its batch norm {name} multiplies a channel by ")
    norm.weight.data[0] = 0.1  # all the same it comes to 32 times
    assert steep_norms(model) == ""
