"""Which modules a network may be made of, and each as data.

Owns the list, and what a pass over a graph must know of each. Refuses to know how they are found in a user's network
(`raysp.models.tracing`).
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from raysp.models.gates import Gate
from raysp.models.relu import MaskedReLU

FIELDS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias", "padding_mode"),
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine"),
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Flatten: (),
    nn.Dropout: ("p",),
    nn.Dropout2d: ("p",),
    MaskedReLU: ("shape",),
    Gate: (),
}
"""What builds each again; `bias` stands for whether it has one."""

KINDS = {kind.__name__: kind for kind in FIELDS}

Json = list[Any]


def described(module: nn.Module) -> Json:
    """A module as data: its kind, and what builds it again."""
    kind = type(module)
    fields = {name: getattr(module, name) for name in FIELDS[kind]}
    if "bias" in fields:
        fields["bias"] = module.bias is not None
    return [kind.__name__, {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}]


def built(description: Json) -> nn.Module:
    """The module of a description, with weights of no meaning.

    Raises:
        ValueError, TypeError: it isn't one.
    """
    name, fields = description
    if name not in KINDS or set(fields) != set(FIELDS[KINDS[name]]):
        raise ValueError(f"{name!r:.40} with {sorted(fields)!r:.200}; expected one of {', '.join(KINDS)}, with its fields")
    return KINDS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def gives_new_map(module: nn.Module) -> bool:
    """Whether a result is a tensor of its own that the module's backward pass doesn't need: whoever alone reads it may overwrite
    it.
    """
    return isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d | Gate)


def comparisons(module: nn.Module, outputs: int) -> int:
    """Comparisons of one image that are no ReLUs: a maximum of k values takes k − 1.

    Args:
        module: any of a network's.
        outputs: values that it gives for one image.
    """
    if not isinstance(module, nn.MaxPool2d):
        return 0
    size = module.kernel_size
    return outputs * ((size * size if isinstance(size, int) else size[0] * size[1]) - 1)


Shape = tuple[int, ...]


def result_shape(module: nn.Module, shape: Shape) -> Shape:
    """Of one image's result, from the shape of what a module reads; nothing is computed.

    Raises:
        ValueError: it can't read that.
    """
    wanted = {nn.Conv2d: "in_channels", nn.Linear: "in_features", nn.BatchNorm2d: "num_features", nn.BatchNorm1d: "num_features"}
    flat = isinstance(module, nn.Linear | nn.BatchNorm1d)
    axis = shape[-1] if isinstance(module, nn.Linear) else shape[0]
    if (flat and len(shape) != 1) or (not flat and type(module) in wanted and len(shape) != 3):
        raise ValueError(f"{type(module).__name__} reads {list(shape)}; expected {'vectors' if flat else 'maps'}")
    if (expected := getattr(module, wanted.get(type(module), ""), axis)) != axis:
        raise ValueError(f"{type(module).__name__} reads {list(shape)}; expected {expected} channels")
    if isinstance(module, nn.Conv2d):
        padding = {"valid": (0, 0), "same": None}[module.padding] if isinstance(module.padding, str) else module.padding
        sizes = shape[1:] if padding is None else _slid(shape[1:], module.kernel_size, module.stride, padding, module.dilation)
        return _checked((module.out_channels, *sizes), module)
    if isinstance(module, nn.Linear):
        return (module.out_features,)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        dilation = module.dilation if isinstance(module, nn.MaxPool2d) else 1
        sizes = _slid(shape[1:], module.kernel_size, module.stride, module.padding, dilation, up=module.ceil_mode)
        return _checked((shape[0], *sizes), module)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return (shape[0], *(given or size for given, size in zip(_pair(module.output_size), shape[1:], strict=True)))
    return (math.prod(shape),) if isinstance(module, nn.Flatten) else shape


def _pair(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value, value)


def _slid(sizes: Shape, kernel: Any, stride: Any, padding: Any, dilation: Any, *, up: bool = False) -> list[int]:
    """How often a window fits on each axis."""
    found = []
    for size, k, s, p, d in zip(sizes, *map(_pair, (kernel, stride, padding, dilation)), strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        steps = -(-room // s) if up else room // s
        if up and steps * s >= size + p:
            steps -= 1  # the last window must begin within the map
        found.append(steps + 1)
    return found


def _checked(shape: Shape, module: nn.Module) -> Shape:
    if min(shape) < 1:
        raise ValueError(f"{type(module).__name__} would give {list(shape)}: the images are too small for it")
    return shape
