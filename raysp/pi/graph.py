"""A collapsed, folded network as a list of plain operations, in the order in which they are computed.

Owns the walk (torch.fx). Refuses to compute anything, and to know an engine. Contract: what the list computes is what the network
computes; an operation that isn't known raises.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from raysp.models.collapse import Logits
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step: reads the results of earlier ones, by their names, and gives one of its own."""

    name: str
    inputs: tuple[str, ...]
    module: nn.Module | None
    """A convolution, linear layer, batch norm, masked ReLU, pool or flattening; None for a sum of two maps."""
    layer: str
    """The module's name in the network; "add" for a sum."""
    shape: tuple[int, ...]
    """Of its result for one image: (channels, height, width), or (features,)."""
    in_shape: tuple[int, ...]
    """Of its first input."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network's operations."""

    input_name: str
    input_shape: tuple[int, ...]
    """(channels, height, width)"""
    operations: tuple[Operation, ...]
    """The last one's result is the logits."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, MaskedReLU) or super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError:  # a part of a stage, cut out by an index, has no name; its modules have
            return ""


def graph_of(model: Network) -> Graph:
    """Walk through a network.

    Args:
        model: collapsed to one exit (`raysp.collapse`), its batch norms folded (`raysp.fold_batchnorm`).

    Raises:
        ValueError: it has several exits, gated blocks with both branches, or an operation that isn't known.
    """
    if len(model.heads) != 1 or any(block.shallow is not None and block.conv1 is not None for _, block in model.gated_blocks()):
        raise ValueError(
            f"a network with exits {', '.join(model.heads)}; expected a collapsed one: raysp.collapse(model, {FINAL!r})"
        )
    wrapped = Logits(model)
    traced = _Tracer().trace(wrapped)
    modules = dict(wrapped.named_modules())
    shapes = _shapes(wrapped, traced, model.example_input())
    names: dict[str, str] = {}  # of a node's value; nodes that change nothing have their input's
    operations: list[Operation] = []
    input_name = ""
    for node in traced.nodes:
        if node.op == "placeholder":
            names[node.name] = input_name = node.name
            continue
        if node.op == "output" or node.name not in shapes:
            continue
        inputs = tuple(names[arg.name] for arg in node.args if isinstance(arg, fx.Node))
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.Identity) or (isinstance(module, MaskedReLU) and module.kept == 0):
            names[node.name] = inputs[0]
            continue
        known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, MaskedReLU, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)
        if not (isinstance(module, known) or (module is None and node.target in ("add_", operator.add) and len(inputs) == 2)):
            raise ValueError(f"{node.op} {node.target} ({type(module).__name__}) can't be run under private inference; expected "
                             f"{', '.join(kind.__name__ for kind in known)} or a sum")  # fmt: skip
        names[node.name] = node.name
        layer = str(node.target).removeprefix("model.") if module is not None else "add"
        operations.append(
            Operation(
                name=node.name,
                inputs=inputs,
                module=module,
                layer=layer,
                shape=shapes[node.name],
                in_shape=shapes[node.args[0].name],
            )
        )
    return Graph(input_name=input_name, input_shape=shapes[input_name], operations=tuple(operations))


def _shapes(wrapped: nn.Module, traced: fx.Graph, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor-valued node for one image, by name."""
    found: dict[str, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n.name] = tuple(value.shape[1:])
            return value

    with torch.inference_mode():
        Shapes(fx.GraphModule(wrapped, traced)).run(image)
    return found
