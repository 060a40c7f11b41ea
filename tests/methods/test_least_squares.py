"""The closed-form start of shallow branches."""

import numpy as np
import pytest
import torch
from networks import main_branch, with_dead_channel

from raysp.methods.least_squares import RIDGE, fit_shallow_branches
from raysp.models import build_model


def network(name="resnet18", kernel=5, share=0.0, blocks=(0,), width=3):
    torch.manual_seed(0)
    model = build_model(name, num_classes=4, image_size=16, width=width)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    for index in blocks:
        block = model.gated_blocks()[index][1]
        block.inner_relu.set_mask(torch.rand(block.inner_relu.shape) < share)
        block.add_shallow_branch(kernel)
    return model


def images(seed=0, num=64):
    return torch.randn(num, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def branches(model, block, x):
    """What the block's two branches give for these images: (shallow, main)."""
    seen = []
    block.main_ends()[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.set_gates(0.0)
    with torch.no_grad():
        model(x)
        return block.shallow(seen[0]), main_branch(model, 0, seen[0])


@pytest.mark.parametrize("name", ["resnet18", "wrn22-8", "vgg16"])
def test_a_linear_main_branch_is_met_by_a_5x5_convolution_but_at_the_border(name):
    model = network(name)
    (block_name, block), *_ = model.gated_blocks()
    r2 = fit_shallow_branches(model, [images(0), images(1)])
    assert r2[block_name] > 0.95
    got, want = branches(model, block, images(2))
    inner = (..., slice(2, -2), slice(2, -2))  # the two convolutions pad twice, the one pads once
    error = (got[inner] - want[inner]).square().mean() / want[inner].var()
    assert error < 0.05
    assert not model.training


def test_the_fit_is_the_ridge_regression_on_patches():
    model = network(kernel=3, share=0.3)
    block = model.gated_blocks()[0][1]
    x_nchw = images(num=8)
    fit_shallow_branches(model, [x_nchw[:3], x_nchw[3:]])
    seen = []
    block.convs[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x_nchw)
        target = main_branch(model, 0, seen[0])
        got = block.shallow(seen[0])
    padded = np.pad(seen[0].numpy().astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, wanted = [], []
    for n in range(8):
        for i in range(16):
            for j in range(16):
                rows.append(padded[n, :, i : i + 3, j : j + 3].ravel())
                wanted.append(target[n, :, i, j].numpy())
    x, y = np.array(rows), np.array(wanted, dtype=np.float64)
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    penalty = RIDGE * np.diag(covariance).mean() * np.eye(x.shape[1])
    weights = np.linalg.solve(covariance + penalty, centred.T @ (y - y.mean(0)) / len(x))
    expected = (centred @ weights + y.mean(0)).reshape(8, 16, 16, -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


def test_training_mode_starts_from_the_same_function():
    model = network(kernel=3, share=0.3)
    block = model.gated_blocks()[0][1]
    x = images(num=256)
    fit_shallow_branches(model, [x])
    evaluated, _ = branches(model, block, x)
    block.shallow.train()
    trained, _ = branches(model, block, x)
    torch.testing.assert_close(trained, evaluated, atol=1e-3, rtol=1e-3)


def test_a_stride_and_several_blocks():
    model = network("resnet18", kernel=3, share=0.1, blocks=(0, 2, 3), width=4)
    r2 = fit_shallow_branches(model, [images()])
    assert list(r2) == ["stages.0.0", "stages.1.0", "stages.1.1"]
    assert all(0 < value <= 1 for value in r2.values())
    state = {name: t.clone() for name, t in model.state_dict().items() if "shallow" not in name}
    fit_shallow_branches(model, [images(5)])
    assert all(torch.equal(model.state_dict()[name], t) for name, t in state.items()), "nothing else may change"


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="expected some thousand"):
        fit_shallow_branches(network(), [])


def test_products_are_of_full_precision_meanwhile():
    """A GPU that rounds factors to TF32 gave fits that explain more than all."""
    seen = []

    def batches():
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        yield images()

    torch.set_float32_matmul_precision("high")
    try:
        fit_shallow_branches(network(), batches())
        after = torch.backends.cuda.matmul.fp32_precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (seen, after) == (["ieee"], "tf32")


def test_a_channel_without_variance_does_no_harm():
    model = with_dead_channel(network(share=0.3))
    model.gated_blocks()[0][1].convs[1].weight.data[1] = 0.0
    (r2,) = fit_shallow_branches(model, [images(0)]).values()
    assert 0 < r2 <= 1
    shallow, _ = branches(model, model.gated_blocks()[0][1], images(1))
    assert shallow.isfinite().all() and all(t.isfinite().all() for t in model.state_dict().values())
