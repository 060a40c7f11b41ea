"""A collapsed, folded network as the operations that cost something under private inference, in the order in which they are
computed.

Owns which of a network's operations an engine can run. Refuses to compute anything, and to know an engine. Contract: what the
list computes is what the network computes; an operation that can't be run raises.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from raysp.models.exits import FINAL
from raysp.models.graph import IMAGE
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU

KNOWN = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, MaskedReLU, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step: reads the results of earlier ones, by their names, and gives one of its own."""

    name: str
    inputs: tuple[str, ...]
    module: nn.Module | None
    """A convolution, linear layer, batch norm, masked ReLU, pool or flattening; None for a sum or a concatenation of maps."""
    layer: str
    """The module's name in the network; "add" for a sum, "cat" for a concatenation."""
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


def graph_of(model: Network) -> Graph:
    """List a network's operations.

    Args:
        model: collapsed to one exit (`raysp.collapse`), its batch norms folded (`raysp.fold_batchnorm`).

    Raises:
        ValueError: it has several exits, gated blocks with both branches, or an operation that can't be run.
    """
    if len(model.exit_names) != 1 or any(chain.gate for chain in model.chains):
        raise ValueError(
            f"a network with exits {', '.join(model.exit_names)}; expected a collapsed one: raysp.collapse(model, {FINAL!r})"
        )
    modules, shapes = model.called(), model.shapes()
    # An identity is no operation.
    nothing = {
        node.name: node.inputs[0]
        for node in model.graph.nodes
        if isinstance(relu := modules.get(node.module or ""), MaskedReLU) and relu.kept == 0
    }
    operations = []
    for node in model.graph.without(nothing).nodes:
        module = modules[node.module] if node.module else None
        if not (isinstance(module, KNOWN) if node.module else node.function in ("add", "cat")) or _unusual(
            module, shapes[node.inputs[0]][1:]
        ):
            what = node.function or f"{node.name} ({type(module).__name__})"
            raise ValueError(
                f"{what} can't be run under private inference; expected {', '.join(kind.__name__ for kind in KNOWN)} (pools "
                "without padding, over whole cells), a sum or a concatenation"
            )
        operations.append(
            Operation(
                name=node.name,
                inputs=node.inputs,
                module=module,
                layer=node.name if node.module else str(node.function),
                shape=shapes[node.name],
                in_shape=shapes[node.inputs[0]],
            )
        )
    return Graph(input_name=IMAGE, input_shape=shapes[IMAGE], operations=tuple(operations))


def _unusual(module: nn.Module | None, size: tuple[int, ...]) -> bool:
    """Whether a module is one that no engine's form is known for, on maps of a size."""
    if isinstance(module, nn.Conv2d):
        return isinstance(module.padding, str) or module.padding_mode != "zeros"
    if isinstance(module, nn.BatchNorm2d):
        return not module.affine
    if isinstance(module, nn.AvgPool2d):
        kernel, stride, padding = map(_pair, (module.kernel_size, module.stride, module.padding))
        whole = kernel[0] == kernel[1] and all(length % kernel[0] == 0 for length in size)
        return not whole or (kernel != stride and kernel != size) or padding != (0, 0)  # one cell has no next one
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _pair(module.output_size) != (1, 1)
    return isinstance(module, nn.MaxPool2d) and _pair(module.dilation) != (1, 1)


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)
