"""From a graph of operations to what SPU runs: a JAX function, its secret inputs, and the compiled program.

Owns the layout (maps are height, width, channels; kernels height, width, in, out) and the masked ReLU's form. Contract:
masks are public and part of the program; weights are the server's secret inputs, the image is the client's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raysp.latency.graph import Graph, Operation
from raysp.models.relu import MaskedReLU
from raysp.pi.engine import CLIENT, NOBODY, SERVER, Program

Array = np.ndarray[Any, np.dtype[Any]]
Apply = Callable[[Sequence[Any], Sequence[Any]], Any]
"""From an operation's inputs and its weights to its result."""


def compile_program(graph: Graph, image_chw: Tensor, *, shared: bool = False) -> Program:
    """See `raysp.pi.engine.Engine.compile`."""
    import jax
    import spu
    from spu.utils import frontend

    network, weights = function_of(graph)
    image = np.ascontiguousarray(image_chw.numpy().transpose(_nhwc(image_chw.ndim)))
    names = [*(f"weight{number}" for number in range(len(weights))), "image"]
    values = [*weights, image]
    specs = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]
    visibility = [spu.Visibility.VIS_SECRET] * len(values)
    executable, _ = frontend.compile(
        frontend.Kind.JAX, network, specs, {}, names, visibility, lambda outputs: [f"out{n}" for n in range(len(outputs))]
    )
    owners = [SERVER] * len(weights) + [NOBODY if shared else CLIENT]
    return Program(
        code=executable.SerializeToString(),
        inputs=dict(zip(names, zip(values, owners, strict=True), strict=True)),
    )


def function_of(graph: Graph) -> tuple[Callable[..., Any], list[Array]]:
    """The JAX function that computes a graph, and its weights.

    Returns:
        The function, whose arguments are the weights and then the image (height, width, channels), and the weights.
    """
    steps: list[tuple[Operation, Apply, slice]] = []
    weights: list[Array] = []
    for operation in graph.operations:
        apply, own = _step(operation)
        steps.append((operation, apply, slice(len(weights), len(weights) + len(own))))
        weights += own

    def network(*values: Any) -> Any:
        *given, image = values
        results = {graph.input_name: image}
        for operation, apply, own in steps:
            results[operation.name] = apply([results[input_name] for input_name in operation.inputs], given[own])
        return results[graph.operations[-1].name]

    return network, weights


def _nhwc(dimensions: int) -> tuple[int, ...]:
    return (1, 2, 0) if dimensions == 3 else tuple(range(dimensions))


def _step(operation: Operation) -> tuple[Apply, list[Array]]:
    """An operation as a function on JAX's arrays, with its weights."""
    import jax.numpy as jnp
    from jax import lax

    module = operation.module
    if module is None:
        if operation.layer == "cat":
            return lambda x, w: jnp.concatenate(x, axis=-1), []
        return lambda x, w: x[0] + x[1], []
    if isinstance(module, nn.Conv2d):
        weights = [_array(module.weight.permute(2, 3, 1, 0)), *([] if module.bias is None else [_array(module.bias)])]
        assert not isinstance(module.padding, str)
        pads, stride, dilation, groups = [(p, p) for p in module.padding], module.stride, module.dilation, module.groups
        by_channel = groups == module.in_channels
        parts = 1 if by_channel else groups  # the engine knows a group for each channel, and no groups

        def convolve(x: Sequence[Any], w: Sequence[Any]) -> Any:
            maps, kernels = jnp.split(x[0][None], parts, axis=-1), jnp.split(w[0], parts, axis=-1)
            found = [
                lax.conv_general_dilated(
                    each,
                    kernel,
                    stride,
                    pads,
                    rhs_dilation=dilation,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups if by_channel else 1,
                )[0]
                for each, kernel in zip(maps, kernels, strict=True)
            ]
            y = found[0] if parts == 1 else jnp.concatenate(found, axis=-1)
            return y + w[1] if len(w) > 1 else y

        return convolve, weights
    if isinstance(module, nn.Linear):
        bias = torch.zeros(module.out_features) if module.bias is None else module.bias
        return lambda x, w: x[0][None].reshape(1, -1) @ w[0] + w[1], [_array(module.weight.T), _array(bias)]
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None and module.running_var is not None
        scale = module.weight / (module.running_var + module.eps).sqrt()
        return lambda x, w: x[0] * w[0] + w[1], [_array(scale), _array(module.bias - module.running_mean * scale)]
    if isinstance(module, MaskedReLU):
        return _masked_relu(module), []
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return lambda x, w: jnp.mean(x[0], axis=(0, 1), keepdims=True), []
    if isinstance(module, nn.AvgPool2d):
        k = int(module.kernel_size) if isinstance(module.kernel_size, int) else module.kernel_size[0]
        channels, height, width = operation.shape
        return lambda x, w: jnp.mean(x[0].reshape(height, k, width, k, channels), axis=(1, 3)), []
    if isinstance(module, nn.MaxPool2d):
        return _max_pool(module, operation), []
    assert isinstance(module, nn.Flatten)
    return lambda x, w: x[0].transpose(2, 0, 1).reshape(-1), []


def _max_pool(module: nn.MaxPool2d, operation: Operation) -> Apply:
    import jax.numpy as jnp
    from jax import lax

    kernel, stride, padding = (v if isinstance(v, tuple) else (v, v) for v in (module.kernel_size, module.stride, module.padding))
    sizes = zip(operation.in_shape[1:], operation.shape[1:], kernel, stride, padding, strict=True)
    # A last window may reach beyond the map, or not reach its end.
    pads = [(p, max(0, (outs - 1) * s + k - size - p)) for size, outs, k, s, p in sizes]
    return lambda x, w: lax.reduce_window(x[0], -jnp.inf, lax.max, (*kernel, 1), (*stride, 1), (*pads, (0, 0)))


def _masked_relu(module: MaskedReLU) -> Apply:
    import jax.numpy as jnp

    if module.kept == module.size:
        return lambda x, w: jnp.maximum(x[0], 0)
    mask = module.mask.permute(1, 2, 0).reshape(-1).cpu().numpy()
    kept = np.flatnonzero(mask).astype(np.int32)
    # Where each position's value lies in what comes after the ReLU: the whole map, and behind it the kept positions again.
    restore = np.arange(module.size, dtype=np.int32)
    restore[kept] = module.size + np.arange(len(kept), dtype=np.int32)

    def relu(x: Sequence[Any], w: Sequence[Any]) -> Any:
        # A select by the mask would compute every position's ReLU; an indexed assignment becomes a loop.
        flat = x[0].reshape(-1)
        return jnp.take(jnp.concatenate([flat, jnp.maximum(jnp.take(flat, kept), 0)]), restore).reshape(x[0].shape)

    return relu


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
