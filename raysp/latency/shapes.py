"""What a layer's cost depends on, as a name, and the name read back.

Owns which layers cost alike. Contract: equal names cost the same, whatever the weights are.
"""

import math
import re
from dataclasses import dataclass

from torch import nn

from raysp.latency.graph import Graph, Operation
from raysp.models.relu import MaskedReLU


def shape_of(operation: Operation, graph: Graph) -> str | None:
    """The name of an operation's shape; None for a ReLU, which costs by its count, and for what costs next to nothing (sums,
    flattening).
    """
    module = operation.module
    if module is None or isinstance(module, MaskedReLU | nn.Flatten):
        return None
    size = _x(operation.in_shape)
    if isinstance(module, nn.Conv2d):
        name = f"conv {_x(module.kernel_size)}, stride {module.stride[0]}, {size} to {module.out_channels}{_unusual(module)}"
    elif isinstance(module, nn.Linear):
        name = f"linear {size} to {module.out_features}"
    elif isinstance(module, nn.BatchNorm2d):
        name = f"norm {size}"
    elif isinstance(module, nn.MaxPool2d):
        kernel, stride = (value if isinstance(value, tuple) else (value, value) for value in (module.kernel_size, module.stride))
        name = f"max pool {_x(kernel)}, stride {stride[0]}, {size} to {_x(operation.shape)}"
    else:
        name = f"pool {size} to {_x(operation.shape)}"
    # What reads the image has an input that one party knows, all others have one that both share.
    return f"{name}, image" if operation.inputs[0] == graph.input_name else name


def _unusual(module: nn.Conv2d) -> str:
    """What a convolution has that most don't: it isn't in the names of those."""
    assert not isinstance(module.padding, str)
    said = ""
    if module.stride[0] != module.stride[1]:
        said += f", stride {_x(module.stride)}"
    if module.dilation != (1, 1):
        said += f", dilation {_x(module.dilation)}"
    same = tuple(d * (k - 1) // 2 if k % 2 else 0 for k, d in zip(module.kernel_size, module.dilation, strict=True))
    if module.padding != same and not (module.kernel_size == module.stride and module.padding == (0, 0)):
        said += f", padding {_x(module.padding)}"
    return said + (f", groups {module.groups}" if module.groups != 1 else "")


def _x(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A shape's name, read."""

    kind: str
    """conv, linear, norm or pool."""
    channels: int
    """That it reads; features of a linear layer."""
    pixels: int
    """Of each of them."""
    outs: int
    """Channels or features that it gives."""
    out_pixels: int
    kernel: int = 1
    """Pixels of a convolution's kernel."""
    stride: int = 1
    is_image: bool = False
    """Whether it reads the image."""


_SIZE = r"(?P<size>\d+(?:x\d+)*)"
_FORMS = (
    re.compile(rf"(?P<kind>conv) (?P<kernel>\d+x\d+), stride (?P<stride>\d+), {_SIZE} to (?P<outs>\d+)(?P<image>, image)?"),
    re.compile(rf"(?P<kind>linear) {_SIZE} to (?P<outs>\d+)(?P<image>, image)?"),
    re.compile(rf"(?P<kind>norm) {_SIZE}(?P<image>, image)?"),
    re.compile(rf"(?P<kind>pool) {_SIZE} to (?P<outs>\d+(?:x\d+)*)(?P<image>, image)?"),
)


LONGEST = 200
"""Letters of a shape's name; more is no shape."""


def read_shape(name: str) -> Shape | None:
    """Read a name that `shape_of` gave; None for what is too unusual to be compared with others, and for a maximum."""
    found = next((match for form in _FORMS if (match := form.fullmatch(name))), None)
    if found is None or len(name) > LONGEST:
        return None
    said = found.groupdict()
    channels, *size = map(int, said["size"].split("x"))
    outs, *out_size = map(int, (said.get("outs") or said["size"]).split("x"))
    kernel, stride = math.prod(map(int, (said.get("kernel") or "1").split("x"))), int(said.get("stride") or 1)
    if stride < 1:
        return None
    if said["kind"] == "conv":
        out_size = [-(-length // stride) for length in size]
    return Shape(
        kind=said["kind"], channels=channels, pixels=math.prod(size), outs=outs, out_pixels=math.prod(out_size),
        kernel=kernel, stride=stride, is_image=bool(said["image"]),
    )  # fmt: skip
