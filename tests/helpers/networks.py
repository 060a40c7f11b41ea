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


def with_dead_channel(model):
    """Give a channel of the first batch norm the running variance of one that was dead in training, 1e-10, and no epsilon to
    hide it.
    """
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    norms[0].eps = 0.0
    norms[0].running_var[0] = 1e-10
    norms[0].running_mean[0] = 0.0
    convs[0].weight.data[0] *= 1e-5
    return model


def main_branch(model, index, x_nchw):
    """What a block's two convolutions and all between them give, by walking over the nodes one by one."""
    chain = model.gated_blocks()[index][1].chain
    found = {model.graph[chain.first].inputs[0]: x_nchw}
    for node in model.graph.nodes:
        if node.module and node.inputs[0] in found and not node.name.startswith((chain.shallow or "-", "heads")):
            module = model.module_at(node.module)
            inplace, module.inplace = getattr(module, "inplace", False), False
            found[node.name] = module(found[node.inputs[0]])
            module.inplace = inplace
        if node.name == chain.last:
            return found[node.name]
    raise AssertionError(chain)


def outer_relu(model, index):
    """The ReLU behind a block, by the name that the built-in networks give it."""
    name = model.gated_blocks()[index][0]
    return model.module_at(f"{name}.outer_relu")
