"""Small networks with masks, gates and exits, for tests."""

import torch

from raysp.models import build_model

NAMES = ["resnet18", "resnet34", "wrn22-8", "vgg16"]


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


def gated(name, ac_after=None, blocks=(0, 2), kernel=3, head="pool", **kwargs):
    model = randomise(build_model(name, num_classes=7, image_size=16, width=4, **kwargs))
    for index in blocks:
        model.gated_blocks()[index][1].add_shallow_branch(kernel)
    if ac_after:
        model.add_exit(ac_after, head)
    return model.eval()
