"""From a torch module that someone wrote to a graph of the operations that raysp knows.

Owns the translation (torch.fx), and naming what stands in its way, each with its place in the user's source. Contract: what the
graph computes with all ReLUs kept is what the module computes in evaluation mode.
"""

import operator
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from raysp.models.graph import IMAGE, Graph, Node, Options
from raysp.models.operations import FIELDS, result_shape
from raysp.models.relu import MaskedReLU

TORCH = str(Path(torch.__file__).parent) + os.sep
HERE = str(Path(__file__).parents[1]) + os.sep
IMAGES = 2
"""Images that shapes are found with: with one, a batch would look like any other axis of one."""


class Untraceable(ValueError):
    """A module that can't become a graph; the message names every reason."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A module's graph, with the modules that it calls by path."""

    graph: Graph
    modules: dict[str, nn.Module]


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
            f"{_message(error)}{_place_of(error)}; expected a forward that takes images alone and decides nothing by "
            "their values or sizes"
        ) from error
    shapes = _shapes(module, traced, (IMAGES, in_channels, image_size, image_size))
    return _Translation(dict(module.named_modules()), traced, shapes, relu6).result()


def _message(error: Exception) -> str:
    text = str(error).split("\n")[0].split(" at ")[0]
    return f"the network can't be traced: {text or type(error).__name__:.200}"


def _place_of(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _is_ours(filename: str) -> bool:
    return filename.startswith((TORCH, HERE, "<"))


class _Tracer(fx.Tracer):
    """Notes where each operation stands. (Torch's own way to do so imports its compiler.)"""

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _is_ours(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            node.meta["place"] = f" ({frame.f_code.co_filename}:{frame.f_lineno})"
        return node


def place_of(node: fx.Node) -> str:
    """Where in the user's source an operation stands, as " (file:line)"; empty where that isn't known."""
    return str(node.meta.get("place", ""))


def _shapes(module: nn.Module, graph: fx.Graph, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by its node's name; of 'image', the images'."""
    found: dict[str, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                value = self._known(n)
                if value is None:
                    value = super().run_node(n)
            except ValueError as error:
                why = str(error).splitlines()[0]
                raise Untraceable(
                    f"images of {size[2]}x{size[3]} don't pass {n.target}{place_of(n)}: {why}; give others with --image-size"
                ) from error
            except Exception as error:
                raise Untraceable(f"{_called(n)} isn't known{place_of(n)}: {KNOWN}") from error
            if isinstance(value, Tensor):
                found[n.name] = tuple(value.shape)
            return value

        def _known(self, n: fx.Node) -> Tensor | None:
            """By rule: on "meta" torch would import its compiler for most of these."""
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if not args or not isinstance(args[0], Tensor):
                return None
            called = modules.get(str(n.target)) if n.op == "call_module" else _module_for(n.target, args[1:], kwargs)
            same = isinstance(called, nn.ReLU | nn.ReLU6 | nn.Dropout2d | nn.Identity) or n.target in RELUS + RELU6S
            if same or (n.target in ADDITIONS and isinstance(args[1], Tensor) and args[0].shape == args[1].shape):
                return torch.empty_like(args[0])
            if called is None or type(called) not in FIELDS or isinstance(called, nn.Flatten):
                return None
            return torch.empty(IMAGES, *result_shape(called, tuple(args[0].shape[1:])), device="meta")

    modules = dict(module.named_modules())
    with torch.inference_mode(), torch.device("meta"):
        Shapes(fx.GraphModule(module, graph)).run(torch.empty(size, device="meta"))
    return found


ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
RELUS = (F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_")
RELU6S = (F.relu6, torch.nn.functional.hardtanh)
FLATTENINGS = (torch.flatten, "flatten", "view", "reshape", torch.reshape, "squeeze", torch.squeeze)
SAME = ("contiguous", "clone", torch.clone)
KNOWN = "raysp knows convolutions, linear layers, batch norms, ReLUs, pools, sums and concatenations"
WAYS_OUT = {
    "ReLU6": "--relu6 relu takes plain ReLUs in its place",
    "relu6": "--relu6 relu takes plain ReLUs in its place",
    "SiLU": "use ReLUs", "GELU": "use ReLUs", "Hardswish": "use ReLUs", "LeakyReLU": "use ReLUs", "ELU": "use ReLUs",
    "Sigmoid": "it isn't linear: leave it out", "Softmax": "give the logits", "LogSoftmax": "give the logits",
}  # fmt: skip


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


@dataclass
class _Translation:
    theirs: dict[str, nn.Module]
    traced: fx.Graph
    shapes: dict[str, tuple[int, ...]]
    relu6: bool
    nodes: list[Node] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    names: dict[fx.Node, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    unknown: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Operations that aren't known, by what they are and what to do: where each stands."""
    logits: str = ""

    def result(self) -> Traced:
        called = [str(n.target) for n in self.traced.nodes if n.op == "call_module"]
        self.several = {path for path in called if called.count(path) > 1}
        for node in self.traced.nodes:
            if node.op == "placeholder":
                if self.names and not node.args:
                    self.troubles.append(f"a second input, {node.name}; expected images alone")
                self.names[node] = IMAGE
            elif node.op == "output":
                self._output(node)
            elif node.name in self.shapes and not self._known(node):
                self._refuse(node)
        for (what, way), places in self.unknown.items():
            more = f", and {len(places) - 1} more" if len(places) > 1 else ""
            self.troubles.append(f"{what} isn't known, at {places[0]}{more}: {way}")
        if self.troubles:
            raise Untraceable("; ".join(dict.fromkeys(self.troubles)))
        graph = Graph(nodes=tuple(self.nodes), exits={"final": self.logits}).pruned()
        reached = {node.module for node in graph.nodes}
        # In the order of the user's own, so that the weights' order is theirs too; made ones follow.
        order = [path for path in (*self.theirs, *self.modules) if path in reached]
        return Traced(graph=graph, modules={path: self.modules[path] for path in dict.fromkeys(order)})

    def _output(self, node: fx.Node) -> None:
        (result,) = node.args
        if not isinstance(result, fx.Node) or len(self.shapes.get(result.name, ())) != 2:
            shape = self.shapes.get(result.name) if isinstance(result, fx.Node) else None
            what = f"a map of shape {shape[1:]}" if shape else f"a {type(result).__name__}"
            self.troubles.append(f"the network gives {what}; expected logits, one per class{place_of(node)}")
        else:
            self.logits = self.names.get(result, "")

    def _refuse(self, node: fx.Node) -> None:
        self.names[node] = node.name  # what reads it can still be looked at
        what, place = _called(node), place_of(node).strip(" ()")
        if node.op == "get_attr":
            what = "a tensor of the network's own"
            place = f"{node.target}, {place}"
        elif node.op == "call_module":
            what = type(self.theirs[str(node.target)]).__name__
            place = f"{node.target}, {place}"
        self.unknown.setdefault((what, WAYS_OUT.get(what, KNOWN)), []).append(place)

    def _known(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return self._module(node, self.theirs[str(node.target)], str(node.target))
        if node.op == "get_attr":
            return False
        target, inputs = node.target, [arg for arg in node.args if isinstance(arg, fx.Node) and arg.name in self.shapes]
        if target in CONCATENATIONS:
            return self._cat(node)
        if not inputs:
            return False
        x, shape = inputs[0], self.shapes[node.name]
        given = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        if target in ADDITIONS:
            same = len(inputs) == 2 and self.shapes[inputs[1].name] == self.shapes[x.name] and not given
            return same and self._function(node, "add", inputs)
        if target in RELUS:
            return self._relu(node, x, node.name)
        if target in RELU6S:
            return self.relu6 and self._relu(node, x, node.name)
        if target in SAME:
            self.names[node] = self.names[x]
            return True
        if target in FLATTENINGS:
            return self._flattened(node, x)
        if target in (torch.mean, "mean"):
            return self._mean(node, x)
        if target is F.pad:
            widths = node.args[1] if len(node.args) > 1 else given.get("pad")
            zeros = not given.get("value") and given.get("mode", "constant") == "constant" and len(node.args) == 2
            return bool(zeros) and isinstance(widths, list | tuple) and self._function(node, "pad", [x], tuple(widths))
        if target is operator.getitem:
            return self._slice(node, x)
        made = _module_for(target, node.args[1:], given, shape)
        return made is not None and self._add(node, made, node.name, x)

    def _module(self, node: fx.Node, module: nn.Module, path: str) -> bool:
        x = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if x is None or len(node.args) != 1 or node.kwargs:
            return False
        if isinstance(module, nn.ReLU) or (self.relu6 and isinstance(module, nn.ReLU6)):
            return self._relu(node, x, path)
        if isinstance(module, nn.Flatten):
            return self._flattened(node, x, path)
        whole = isinstance(module, nn.AdaptiveAvgPool2d) and self.shapes[x.name] == self.shapes[node.name]
        if whole or isinstance(module, nn.Identity):
            self.names[node] = self.names[x]
            return True
        if type(module) not in FIELDS:
            same = isinstance(module, nn.Dropout2d | nn.Dropout)
            return same and self._add(node, nn.Dropout(module.p), path, x)  # type: ignore[arg-type]
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_mean is None:
            return False  # its results depend on the other images of a batch
        if isinstance(module, nn.MaxPool2d) and module.return_indices:
            return False
        return self._add(node, module, path, x, shared=True)

    def _relu(self, node: fx.Node, x: fx.Node, path: str) -> bool:
        if self.names[x] == IMAGE:
            return False
        shape = self.shapes[node.name][1:]
        return self._add(node, MaskedReLU(cast(tuple[int, int, int], (*shape, *(1,) * (3 - len(shape))))), path, x)

    def _flattened(self, node: fx.Node, x: fx.Node, path: str = "") -> bool:
        """Flattening, however it is written; what changes no shape is nothing."""
        before, after = self.shapes[x.name], self.shapes[node.name]
        if before == after:
            self.names[node] = self.names[x]
            return True
        flat = len(after) == 2 and after[0] == before[0] == IMAGES
        return flat and self._add(node, nn.Flatten(), path or node.name, x)

    def _mean(self, node: fx.Node, x: fx.Node) -> bool:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if not isinstance(axes, list | tuple) or sorted(a % 4 for a in axes) != [2, 3]:
            return False
        self._add(node, nn.AdaptiveAvgPool2d(1), node.name, x)
        if len(self.shapes[node.name]) == 2:
            self._add(node, nn.Flatten(), node.name + "_flat", node)
        return True

    def _cat(self, node: fx.Node) -> bool:
        maps = node.args[0] if node.args else node.kwargs.get("tensors")
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        good = isinstance(maps, list | tuple) and all(isinstance(m, fx.Node) for m in maps)
        good = good and isinstance(axis, int) and axis % len(self.shapes[node.name]) == 1
        return good and self._function(node, "cat", list(maps))  # type: ignore[arg-type]

    def _slice(self, node: fx.Node, x: fx.Node) -> bool:
        bounds = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        if len(self.shapes[x.name]) != 4 or not all(isinstance(b, slice) for b in bounds) or bounds[0] != slice(None):
            return False
        bounds = (*bounds, *(slice(None),) * (4 - len(bounds)))
        numbers = tuple(n for b in bounds[1:] for n in (b.start, b.stop, b.step))  # type: ignore[union-attr]
        return all(n is None or isinstance(n, int) for n in numbers) and self._function(node, "slice", [x], numbers)

    def _function(self, node: fx.Node, function: str, inputs: list[fx.Node], options: Options = ()) -> bool:
        read = tuple(self.names[x] for x in inputs)
        self.names[node] = node.name
        self.nodes.append(Node(name=node.name, inputs=read, function=function, options=options))
        return True

    def _add(self, node: fx.Node, module: nn.Module, path: str, x: fx.Node, *, shared: bool = False) -> bool:
        """A node that calls a module. One that has no weights is each caller's own; `shared` ones are called by all."""
        read, taken = self.names[x], {n.name for n in self.nodes}
        name = path
        if path in self.several or path in taken or (path != node.target and path in self.theirs):
            number = 1
            while (name := f"{path}_{number}") in taken or name in self.theirs:
                number += 1
        own = path if shared else name
        self.modules.setdefault(own, module)
        self.names[node] = name
        self.nodes.append(Node(name=name, inputs=(read,), module=own))
        return True


def _module_for(target: Any, args: tuple[Any, ...], given: Mapping[str, Any], shape: tuple[int, ...] = ()) -> nn.Module | None:
    """The module that does what a function does, if there is one."""
    kinds: dict[Any, tuple[type[nn.Module], tuple[str, ...]]] = {
        F.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
        torch.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
        F.avg_pool2d: (nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
        F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
        F.dropout: (nn.Dropout, ("p",)),
        F.dropout2d: (nn.Dropout, ("p",)),
    }
    if target not in kinds:
        return None
    kind, names = kinds[target]
    fields = dict(zip(names, args, strict=False)) | {k: v for k, v in given.items() if k in names}
    if any(isinstance(value, fx.Node) for value in fields.values()):
        if kind is nn.AvgPool2d and shape[2:] == (1, 1):
            return nn.AdaptiveAvgPool2d(1)  # over the whole map, whose size was asked for
        return None
    return kind(**fields)
