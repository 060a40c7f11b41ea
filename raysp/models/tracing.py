"""From a torch module that someone wrote to a graph of the operations that raysp knows.

Owns running its forward on symbols (torch.fx), and the shapes. Contract: what the
graph computes with all ReLUs kept is what the module computes in evaluation mode.
"""

import operator
import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from raysp.models.graph import IMAGE
from raysp.models.operations import FIELDS, result_shape
from raysp.models.places import Untraceable, is_ours, place_of, place_of_error, place_of_forward
from raysp.models.translation import (
    ADDITIONS,
    CONCATENATIONS,
    FLATTENINGS,
    IMAGES,
    RELU6S,
    RELUS,
    Traced,
    Translation,
    called,
    module_for,
    unknown,
)  # fmt: skip


def trace(module: nn.Module, *, in_channels: int, image_size: int, relu6: bool = False) -> Traced:
    """Translate a module.

    Args:
        module: maps images (n, in_channels, image_size, image_size) to logits (n, classes); left in evaluation mode. The graph
            shares its modules, but for ReLUs and what was written as a function.
        in_channels, image_size: of the images.
        relu6: take min(max(x, 0), 6) for a plain ReLU.

    Raises:
        Untraceable: something in it isn't known, or depends on more than the images' size.
    """
    module.eval()
    try:
        traced = _Tracer(autowrap_functions=(), param_shapes_constant=True).trace(module)
    except Exception as error:  # the user's code runs in here
        raise Untraceable(
            f"{_message(error)}{place_of_error(error) or place_of_forward(module)}; expected a forward that takes images alone "
            "and decides nothing by their values or sizes"
        ) from error
    shapes = _shapes(module, traced, (IMAGES, in_channels, image_size, image_size))
    return Translation(dict(module.named_modules()), traced, shapes, relu6, place_of_forward(module)).result()


def _message(error: Exception) -> str:
    text = str(error).split("\n")[0].split(" at ")[0]
    return f"the network can't be traced: {text or type(error).__name__:.200}"


class _Proxy(fx.Proxy):
    """Tells `x += y` from `x = x + y`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Notes where each operation stands. (Torch's own way to do so imports its compiler.)"""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The images alone; what else a forward takes keeps its default."""
        return root_fn, [self.root, self.create_proxy("placeholder", IMAGE, (), {})]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and is_ours(frame.f_code.co_filename) and frame.f_code is not trace.__code__:
            frame = frame.f_back
        if frame is not None and frame.f_code is not trace.__code__:
            node.meta["place"] = f" ({frame.f_code.co_filename}:{frame.f_lineno})"
        return node


def _shapes(module: nn.Module, graph: fx.Graph, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by its node's name, and () for several at once; of 'image', the images'."""
    found: dict[str, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                value = self._known(n)
                if value is None:
                    value = super().run_node(n)
            except Exception as error:
                if isinstance(error, ValueError) or n.target in ADDITIONS + CONCATENATIONS + FLATTENINGS:
                    what = str(error).split("\n")[0]
                    images = f"images of {size[2]}x{size[3]}"
                    raise Untraceable(
                        f"{images} don't pass {called(n)}{place_of(n)}: {what}; give others with --image-size"
                    ) from error
                (what, way), place = unknown(n, modules)
                raise Untraceable(f"{what} isn't known, at {place}: {way}") from error
            if isinstance(value, Tensor):
                found[n.name] = tuple(value.shape)
                return value.to("meta")  # a tensor of the network's own lies elsewhere
            if n.op != "output" and isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
                found[n.name] = ()
            return value

        def _known(self, n: fx.Node) -> Tensor | None:
            """By rule: on "meta" torch would import its compiler for most of these."""
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if not args or not isinstance(args[0], Tensor):
                return None
            is_module = n.op == "call_module"
            called = modules.get(str(n.target)) if is_module else module_for(n.target, args[1:], kwargs)
            same = isinstance(called, nn.ReLU | nn.ReLU6 | nn.Identity) or (not is_module and n.target in RELUS + RELU6S)
            added = not is_module and n.target in ADDITIONS and isinstance(args[1], Tensor) and args[0].shape == args[1].shape
            if same or added:
                return torch.empty_like(args[0])
            if called is None or type(called) not in FIELDS or isinstance(called, nn.Flatten):
                return None
            return torch.empty(IMAGES, *result_shape(called, tuple(args[0].shape[1:])), device="meta")

    modules = dict(module.named_modules())
    with torch.inference_mode(), torch.device("meta"):
        interpreter = Shapes(module, graph=graph)
        interpreter.extra_traceback = False  # it would be written into the message
        interpreter.run(torch.empty(size, device="meta"))
    return found
