"""What a layer's cost depends on, as a name; and one layer as a graph of its own.

Owns which layers cost alike. Contract: equal names cost the same, whatever the weights are.
"""

from torch import nn

from raysp.models.relu import MaskedReLU
from raysp.pi.graph import Graph, Operation


def shape_of(operation: Operation, graph: Graph) -> str | None:
    """The name of an operation's shape; None for a ReLU, which costs by its count, and for what costs next to nothing (sums,
    flattening).
    """
    module = operation.module
    if module is None or isinstance(module, MaskedReLU | nn.Flatten):
        return None
    size = "x".join(map(str, operation.in_shape))
    if isinstance(module, nn.Conv2d):
        kernel, stride = "x".join(map(str, module.kernel_size)), module.stride[0]
        name = f"conv {kernel}, stride {stride}, {size} to {module.out_channels}"
    elif isinstance(module, nn.Linear):
        name = f"linear {size} to {module.out_features}"
    elif isinstance(module, nn.BatchNorm2d):
        name = f"norm {size}"
    else:
        name = f"pool {size} to {'x'.join(map(str, operation.shape))}"
    # What reads the image has an input that one party knows, all others have one that both share.
    return f"{name}, image" if operation.inputs[0] == graph.input_name else name


def alone(operation: Operation) -> Graph:
    """A graph of this operation and nothing else."""
    only = Operation(
        name=operation.name,
        inputs=("x",),
        module=operation.module,
        layer=operation.layer,
        shape=operation.shape,
        in_shape=operation.in_shape,
    )
    return Graph(input_name="x", input_shape=operation.in_shape, operations=(only,))
