"""Batch norms' statistics, measured anew."""

import torch

from raysp.methods.measured import measure
from raysp.models import build_model


def test_statistics_are_the_images_own_but_where_a_gate_is_closed():
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=7, image_size=8, in_channels=1, width=4)
    _, block = model.gated_blocks()[1]
    block.add_shallow_branch(3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    images = torch.randn(96, 1, 8, 8)
    measure(model, norms, torch.split(images, 32))
    after = model.state_dict()
    changed = {name for name, t in after.items() if not torch.equal(t, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert not any("shallow" in name for name in changed) and len(changed) == 3 * (len(norms) - 1)
    assert not model.training and all(norm.momentum == 0.1 and not norm.training for norm in norms)
    with torch.no_grad():
        wanted = [model.stem_conv(part) for part in torch.split(images, 32)]
        mean = torch.stack([maps.mean(dim=(0, 2, 3)) for maps in wanted]).mean(dim=0)
        torch.testing.assert_close(after["stem_bn.running_mean"], mean)
        evaluated = model(images).logits["final"]
        trained = model.train()(images).logits["final"]
    assert float((trained - evaluated).abs().max()) < 0.2 * float(evaluated.abs().max())


def test_norms_that_are_not_named_keep_theirs():
    model = build_model("resnet18", num_classes=7, image_size=8, in_channels=1, width=4)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert model.stem_bn is not None
    measure(model, [model.stem_bn], [torch.randn(32, 1, 8, 8)])
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"stem_bn.running_mean", "stem_bn.running_var", "stem_bn.num_batches_tracked"}
