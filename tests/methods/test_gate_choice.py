"""What gating a block would cost, measured without training."""

import math

import torch
from torch.nn import functional as F

from raysp.methods import gate_choice
from raysp.methods.gate_choice import measure_gates
from raysp.methods.least_squares import fit_shallow_branches
from raysp.models import build_model
from raysp.models.exits import FINAL


def network(shares):
    """A network of random weights, whose blocks' inner ReLUs keep these shares."""
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=4, image_size=16, width=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    for (_, block), share in zip(model.gated_blocks(), shares, strict=True):
        block.inner_relu.set_mask(torch.rand(block.inner_relu.shape) < share)
    return model.eval()


def images(seed, num=96):
    return torch.randn(num, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).split(32)


SHARES = (0.5, 0.0, 0.3, 0.9, 0.1, 0.0, 0.7, 0.2)


def test_the_divergence_is_that_of_a_network_with_this_block_alone_shallow():
    found = measure_gates(network(SHARES), images(0), lambda: iter(images(1)), kernel_size=3)
    plain = network(SHARES)
    with torch.no_grad():
        p = torch.cat([plain(batch).logits[FINAL] for batch in images(1)]).softmax(dim=1)
    assert [loss.block for loss in found] == [name for name, _ in plain.gated_blocks()]
    for number, loss in enumerate(found):
        one = network(SHARES)
        one.gated_blocks()[number][1].add_shallow_branch(3)
        r2 = fit_shallow_branches(one, images(0))[loss.block]
        one.set_gates(1.0)
        with torch.no_grad():
            q = torch.cat([one(batch).logits[FINAL] for batch in images(1)]).log_softmax(dim=1)
        torch.testing.assert_close(loss.divergence, float(F.kl_div(q, p, reduction="batchmean")), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(loss.fit_r2, r2, rtol=1e-4, atol=1e-5)


def test_a_branch_that_breaks_the_network_is_the_last_to_be_taken(monkeypatch):
    model = network(SHARES)
    real = gate_choice.fit_shallow_branches

    def fit(student, batches):
        found = real(student, batches)
        student.gated_blocks()[2][1].shallow[0].weight.data.fill_(float("nan"))
        return found

    monkeypatch.setattr(gate_choice, "fit_shallow_branches", fit)
    found = measure_gates(model, images(0), lambda: iter(images(1)), kernel_size=3)
    assert max(found, key=lambda loss: loss.divergence) is found[2] and math.isfinite(found[2].divergence)


def test_a_block_that_adds_nothing_loses_nothing():
    model = network(SHARES)
    last = model.gated_blocks()[4][1].main_ends()[1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    found = measure_gates(model, images(0), lambda: iter(images(1)), kernel_size=3)
    least = min(found, key=lambda loss: loss.divergence)
    assert least is found[4] and least.divergence < 1e-9 < sorted(loss.divergence for loss in found)[1]
