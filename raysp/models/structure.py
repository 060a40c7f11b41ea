"""What of a network's graph the method speaks of: its stages, what feeds a ReLU, and which convolutions count as depth.

Owns the rules. Contract: for the networks of the paper they give the paper's stages, layers and depths.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from raysp.models.graph import FUNCTIONS, IMAGE, Graph, Node
from raysp.models.operations import result_shape
from raysp.models.relu import MaskedReLU

Modules = Mapping[str, nn.Module]
Shapes = Mapping[str, tuple[int, ...]]
"""Of each result for one image, by its node's name: (channels, height, width), or (features,)."""


def shapes_of(graph: Graph, modules: Modules, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The shape of each result for one image, by its node's name; nothing is computed.

    Args:
        graph: any.
        modules: by path.
        image: channels, height and width.

    Raises:
        ValueError: a node can't read what it is given.
    """
    found: dict[str, tuple[int, ...]] = {IMAGE: image}
    for node in graph.nodes:
        read = [found[name] for name in node.inputs]
        if node.module:
            found[node.name] = result_shape(modules[node.module], read[0])
        elif node.function == "cat":
            found[node.name] = (sum(shape[0] for shape in read), *read[0][1:])
        elif node.function == "add":
            found[node.name] = read[0]
        else:  # little to compute
            found[node.name] = tuple(FUNCTIONS[str(node.function)](torch.empty(1, *read[0]), *node.options).shape[1:])
    return found


@dataclass(frozen=True, kw_only=True)
class Point:
    """The end of a stage, where an exit can stand."""

    node: str
    """Its map, which all that comes later is computed from."""
    feature: str
    """That map behind its ReLU: what is compared with the teacher's."""


def find_stages(graph: Graph, modules: Modules, shapes: Shapes) -> list[Point]:
    """The ends of a network's stages, in forward order; the last one's is what the classifier reads.

    A stage is as many operations as share a resolution, with a convolution among them that isn't the network's first. It ends
    with its last convolution, sum or concatenation that all data pass through, and with the batch norm and the ReLU directly
    behind it: before a batch norm behind a sum, as pre-activated networks have it.

    Args:
        graph: whole, without gates and auxiliary exits.
        modules: by path.
        shapes: of its results.
    """
    nodes = {node.name: node for node in graph.nodes}
    position = {node.name: number for number, node in enumerate(graph.nodes)}
    convs = [position[node.name] for node in graph.nodes if _is(node, modules, nn.Conv2d)][1:]
    runs: list[list[str]] = []
    for name in graph.cuts():
        if len(shapes[name]) != 3:
            break
        if not runs or shapes[runs[-1][-1]][1:] != shapes[name][1:]:
            runs.append([])
        runs[-1].append(name)
    found, until = [], -1
    for run in runs:
        ends = [i for i, name in enumerate(run) if nodes[name].function in ("add", "cat") or _is(nodes[name], modules, nn.Conv2d)]
        if not ends or not any(until < conv <= position[run[-1]] for conv in convs):
            continue
        end = ends[-1]
        if _is(nodes[run[end]], modules, nn.Conv2d) and _is(_at(nodes, run, end + 1), modules, nn.BatchNorm2d):
            end += 1
        if _is(_at(nodes, run, end + 1), modules, MaskedReLU):
            end += 1
        point = feature = run[end]
        later = [_at(nodes, run, end + 1), _at(nodes, run, end + 2)]
        if _is(later[0], modules, nn.BatchNorm2d) and later[1] and _is(later[1], modules, MaskedReLU):
            feature = later[1].name
        until = position[point]
        found.append(Point(node=point, feature=feature))
    return found


def _at(nodes: Mapping[str, Node], names: list[str], index: int) -> Node | None:
    return nodes[names[index]] if index < len(names) else None


def _is(node: Node | None, modules: Modules, kind: type[nn.Module]) -> bool:
    return node is not None and node.module is not None and isinstance(modules[node.module], kind)


class Paths:
    """The longest ways from the image to each result of a network, in convolutions; of equally long ones the first input's.

    Args:
        graph: its branches not counted twice: at a gate, the main branch is followed if it is there.
        modules: by path.
    """

    def __init__(self, graph: Graph, modules: Modules) -> None:
        self._modules, self._nodes = modules, {node.name: node for node in graph.nodes}
        self._depth = {IMAGE: 0}
        for node in graph.nodes:
            self._depth[node.name] = self._depth[self._before(node)] + _is(node, modules, nn.Conv2d)

    def _before(self, node: Node) -> str:
        return max(node.inputs, key=lambda name: self._depth[name])

    def convolutions(self, name: str) -> list[str]:
        """The nodes of the convolutions on the longest way to a result, in forward order."""
        found = []
        while name != IMAGE:
            node = self._nodes[name]
            if _is(node, self._modules, nn.Conv2d):
                found.append(name)
            name = self._before(node)
        return found[::-1]

    def fed_by(self, name: str) -> nn.Conv2d | nn.Linear:
        """The convolution or linear layer whose results a node reads, through norms, sums and whatever has no weights."""
        while (name := self._before(self._nodes[name])) != IMAGE:
            module = self._modules.get(self._nodes[name].module or "")
            if isinstance(module, nn.Conv2d | nn.Linear):
                return module
        raise ValueError("a ReLU of the image itself; expected a convolution before it")
