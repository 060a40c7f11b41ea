"""The network as it would be deployed: main branches of gated blocks, and all that lies after an exit, physically gone."""

import copy
import dataclasses
from collections.abc import Container, Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from raysp.models.exits import FINAL
from raysp.models.graph import Graph
from raysp.models.network import Network

STEEP = 1e2
"""A batch norm that multiplies a channel by more is named where a model computes something else than it should. With torch's own
eps, 1e-5, a channel without variance is multiplied by 316 times its weight."""


def collapse(model: Network, exit: str = FINAL) -> Network:  # noqa: A002 (the field's word)
    """Return a plain copy of a network for one of its exits; its outputs are the gated network's at γ = 1.

    Args:
        model: left as it is.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.

    Raises:
        ValueError: the model has no such exit.
    """
    if exit not in model.exit_names:
        raise ValueError(f"no exit {exit!r}; the model has {', '.join(model.exit_names)}: name one of them as exit")
    return _without_main_branches(model, (exit,))


def drop_main_branches(model: Network) -> Network:
    """Return a copy of a network, in evaluation mode, whose gated blocks have only their shallow branch; all exits stay."""
    return _without_main_branches(model, model.exit_names)


def _without_main_branches(model: Network, exits: Iterable[str]) -> Network:
    plain = copy.deepcopy(model).eval()
    stand_in = {chain.gate: plain.graph[chain.gate].inputs[0] for chain in plain.chains if chain.gate}
    modules = plain.called()
    stand_in |= {
        node.name: node.inputs[0]
        for node in plain.graph.nodes
        if isinstance(modules.get(node.module or ""), nn.Dropout | nn.Dropout2d)
    }
    _keep(plain, plain.graph.without(stand_in).pruned(exits))
    return plain


def _keep(network: Network, graph: Graph) -> None:
    """Leave a network nothing but what a graph says."""
    names, paths = {node.name for node in graph.nodes}, {node.module for node in graph.nodes}

    def drop(module: nn.Module, prefix: str) -> None:
        for name, child in list(module._modules.items()):
            path = f"{prefix}{name}"
            if path in paths:
                continue
            drop(cast(nn.Module, child), f"{path}.")
            if not cast(nn.Module, child)._modules:
                del module._modules[name]

    drop(network, "")
    network.chains = [c for c in network.chains if {c.first, c.inner, c.second, c.last} <= names]
    network.ac_heads = {exit: head for exit, head in network.ac_heads.items() if exit in graph.exits}  # noqa: A001
    network.set_graph(graph)


def fold_batchnorm(model: Network, spared: Container[str] = ()) -> Network:
    """Return a copy of a network, in evaluation mode, with every batch norm that directly follows a convolution folded into it.

    Outputs stay the same to float rounding; on "meta" there are none, and the layers are the same. A pre-activated network keeps
    those that follow an addition: the ReLU behind them stands between them and the next convolution.

    Args:
        model: left as it is; usually a collapsed one.
        spared: nodes of batch norms that stay.
    """
    folded = copy.deepcopy(model).eval()
    readers, modules, nodes = folded.graph.readers(), folded.called(), {node.name: node for node in folded.graph.nodes}
    calls = [node.module for node in folded.graph.nodes]
    gone = {}
    for node in folded.graph.nodes:
        norm, path = modules.get(node.module or ""), nodes[node.inputs[0]].module if node.inputs[0] in nodes else None
        conv = modules.get(path or "")
        if (
            isinstance(norm, nn.BatchNorm2d)
            and node.name not in spared
            and isinstance(conv, nn.Conv2d)
            and readers[node.inputs[0]] == [node.name]
            and path
            and calls.count(node.module) == calls.count(path) == 1
        ):
            folded.hold(path, _fused(conv, norm))
            gone[node.name] = node.inputs[0]
    points = tuple(gone.get(point, point) for point in folded.origin.points)
    folded.origin = dataclasses.replace(folded.origin, points=points)
    folded.chains = [dataclasses.replace(chain, last=gone.get(chain.last, chain.last)) for chain in folded.chains]
    _keep(folded, folded.graph.without(gone))
    return folded


def steep_norms(model: Network) -> str:
    """The batch norm that multiplies by most, for a message; empty where none multiplies by `STEEP` or more.

    A channel that was dead in training has hardly any variance. What rounds its values, folding or an engine's fixed point,
    is multiplied as well.
    """
    steepest, told = STEEP, ""
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) and norm.running_var is not None:
            scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.detach().abs())
            if (most := float(scale.max())) >= steepest:
                variance = float(norm.running_var[int(scale.argmax())])
                steepest, told = most, f"its batch norm {name} multiplies a channel by {most:.2g} (running_var {variance:.2g})"
    return told


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    if not conv.weight.is_meta:
        return fuse_conv_bn_eval(conv, norm)
    if conv.bias is None:  # nothing to compute, which torch would take its time for
        conv.bias = nn.Parameter(conv.weight.new_empty(conv.out_channels))
    return conv


class Logits(nn.Module):
    """A collapsed network, of one exit, as a function from images to logits."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        (self.exit,) = model.exit_names

    def forward(self, image: Tensor) -> Tensor:
        """Logits, (n, classes), of images (n, channels, height, width)."""
        return cast(Tensor, self.model(image).logits[self.exit])
