"""A network as operations, and their shapes' names."""

import networks
import pytest
import torch
from torch import nn

from raysp.latency.graph import graph_of
from raysp.latency.shapes import read_shape, shape_of
from raysp.models import network_of
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.exits import FINAL
from raysp.models.relu import MaskedReLU


@pytest.mark.parametrize("name", networks.NAMES)
@pytest.mark.parametrize(("exit_name", "head"), [(FINAL, "bottleneck"), ("ac2", "bottleneck"), ("ac2", "grid")])
def test_the_walk_computes_what_the_network_computes(name, exit_name, head):
    model = networks.gated(name, ac_after=2, head=head, in_channels=3)
    model.set_gates(1.0)
    networks.outer_relu(model, 1).set_mask(torch.zeros(networks.outer_relu(model, 1).shape, dtype=torch.bool))
    plain = fold_batchnorm(collapse(model, exit_name))
    graph = graph_of(plain)
    image = torch.randn(1, 3, 16, 16)
    values = {graph.input_name: image}
    with torch.inference_mode():
        for operation in graph.operations:
            inputs = [values[name].clone() for name in operation.inputs]
            values[operation.name] = torch.add(*inputs) if operation.module is None else operation.module(*inputs)
            assert tuple(values[operation.name].shape[1:]) == operation.shape
        torch.testing.assert_close(values[graph.operations[-1].name], plain(image).logits[exit_name])
    relus = sum(o.module.kept for o in graph.operations if isinstance(o.module, MaskedReLU))
    assert relus == count_costs(model, exit_name).relus


def test_a_network_that_is_not_collapsed_is_refused():
    with pytest.raises(ValueError, match="expected a collapsed one"):
        graph_of(networks.gated("resnet18", ac_after=2, in_channels=3))


class Unusual(nn.Module):
    def __init__(self, **conv):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, **conv), nn.ReLU())
        self.rest = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x):
        return self.rest(self.layers(x))


def names(module):
    network = network_of(module, name="unusual", num_classes=5, image_size=16)
    graph = graph_of(fold_batchnorm(collapse(network)))
    return [name for operation in graph.operations if (name := shape_of(operation, graph))]


def test_layers_that_cost_differently_have_different_names():
    usual = names(Unusual(padding=1))
    assert usual[:2] == ["conv 3x3, stride 1, 3x16x16 to 8, image", "conv 3x3, stride 1, 8x16x16 to 8"]
    assert usual[2:] == ["max pool 2x2, stride 2, 8x16x16 to 8x8x8", "pool 8x8x8 to 8x1x1", "linear 8 to 5"]
    others = [names(Unusual(**conv))[1] for conv in ({"padding": 0}, {"padding": 1, "groups": 8}, {"padding": 1, "dilation": 2})]
    assert len({usual[1], *others}) == 4


def test_a_name_is_read_back_and_what_is_unusual_is_not():
    shape = read_shape("conv 3x3, stride 2, 16x8x8 to 32, image")
    assert (shape.kind, shape.channels, shape.pixels, shape.outs, shape.out_pixels) == ("conv", 16, 64, 32, 16)
    assert (shape.kernel, shape.stride, shape.is_image) == (9, 2, True)
    assert read_shape("linear 128 to 10").outs == 10
    assert read_shape("pool 16x8x8 to 16x4x4").out_pixels == 16
    for name in ("max pool 2x2, stride 2, 8x16x16 to 8x8x8", "conv 3x3, stride 1, 8x16x16 to 8, groups 8", "", "relu"):
        assert read_shape(name) is None
