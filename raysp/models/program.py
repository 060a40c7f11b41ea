"""From a graph to the steps that a forward pass takes.

Owns which branch of a decided gate is left out, what may be overwritten in place, and when a result is let go. Contract: what the
steps compute is what the graph says, in training too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raysp.models.gates import Gate
from raysp.models.graph import FUNCTIONS, Graph, Node
from raysp.models.operations import gives_new_map
from raysp.models.relu import MaskedReLU


@dataclass(frozen=True)
class Step:
    """A node, ready to be computed."""

    name: str
    inputs: tuple[str, ...]
    holder: dict[str, Any]
    """What `key` lies in: the modules beside the one that is called, so that one who swaps it is heard; or the function alone."""
    key: str
    done: tuple[str, ...]
    """Results that nothing reads any more."""


def plan(graph: Graph, modules: Mapping[str, nn.Module], root: nn.Module) -> tuple[list[Step], Graph]:
    """Lay out what is computed.

    Args:
        graph: with its gates as they are set.
        modules: what it calls, by path; whether its ReLUs overwrite their inputs is noted in them.
        root: what holds the modules.

    Returns:
        The steps, and the graph that they compute: of gates that are decided, one branch.
    """
    stand_in = {}
    for node in graph.nodes:
        gate = modules.get(node.module or "")
        if isinstance(gate, Gate) and gate.decided != "both":
            stand_in[node.name] = node.inputs[0 if gate.decided == "shallow" else 1]
    graph = graph.without(stand_in).pruned()
    readers = graph.readers()
    makers = {node.name: node for node in graph.nodes}

    def free(name: str) -> bool:
        """Whether the one node that reads a result may overwrite it."""
        maker = makers.get(name)
        if maker is None or len(readers[name]) != 1:
            return False
        return gives_new_map(modules[maker.module]) if maker.module else maker.function == "add"

    last = {name: node.name for node in graph.nodes for name in node.inputs}
    shown = {*graph.exits.values(), *graph.features}
    steps = []
    for node in graph.nodes:
        done = tuple(name for name in dict.fromkeys(node.inputs) if last[name] == node.name and name not in shown)
        if node.module:
            module = modules[node.module]
            if isinstance(module, MaskedReLU):
                module.inplace = free(node.inputs[0]) and module.shape[1:] != (1, 1)
            path, _, key = node.module.rpartition(".")
            holder = root
            for name in path.split(".") if path else ():
                holder = holder._modules[name]  # type: ignore[assignment]
            steps.append(Step(node.name, node.inputs, holder._modules, key, done))
        else:
            steps.append(Step(node.name, node.inputs, {"function": _function(node, free)}, "function", done))
    return steps, graph


def _function(node: Node, free: Callable[[str], bool]) -> Callable[..., Tensor]:
    assert node.function
    if node.function == "add":
        places = [place for place, name in enumerate(node.inputs) if free(name)]
        return (_add_to_first, _add_to_second)[places[0]] if places else FUNCTIONS["add"]
    function, options = FUNCTIONS[node.function], node.options
    return (lambda *inputs: function(*inputs, *options)) if options else function


def _add_to_first(x: Tensor, y: Tensor) -> Tensor:
    return x.add_(y)


def _add_to_second(x: Tensor, y: Tensor) -> Tensor:
    return y.add_(x)
