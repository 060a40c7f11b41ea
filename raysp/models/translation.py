"""From torch.fx's record of a forward pass to a graph, operation by operation.

Owns which ways of writing an operation are known, and what to do about those that aren't.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from raysp.models.graph import IMAGE, Graph, Node, Options
from raysp.models.operations import FIELDS
from raysp.models.places import Untraceable, place_of
from raysp.models.relu import MaskedReLU

IMAGES = 2
"""Images that shapes are found with: with one, a batch would look like any other axis of one."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A module's graph, with the modules that it calls by path."""

    graph: Graph
    modules: dict[str, nn.Module]
    place: str
    """Where its forward stands, as " (file:line)"; empty for torch's own."""


ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
RELUS = (F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_")
RELU6S = (F.relu6,)
FLATTENINGS = (torch.flatten, "flatten", "view", "reshape", torch.reshape, "squeeze", torch.squeeze)
SAME = ("contiguous", "clone", torch.clone)
IN_PLACE = (operator.iadd, "add_", "relu_", torch.relu_, F.relu_)
KNOWN = "raysp knows convolutions, linear layers, batch norms, ReLUs, pools, sums and concatenations; build the network of these"
WAYS_OUT = {
    "ReLU6": "--relu6 relu takes plain ReLUs in its place",
    "relu6": "--relu6 relu takes plain ReLUs in its place",
    "SiLU": "use ReLUs", "GELU": "use ReLUs", "Hardswish": "use ReLUs", "LeakyReLU": "use ReLUs", "ELU": "use ReLUs",
    "silu": "use ReLUs", "gelu": "use ReLUs", "hardswish": "use ReLUs", "leaky_relu": "use ReLUs", "elu": "use ReLUs",
    "PReLU": "use ReLUs",
    "Sigmoid": "it isn't linear: leave it out", "Softmax": "give the logits", "LogSoftmax": "give the logits",
    "softmax": "give the logits", "log_softmax": "give the logits", "dropout": "give it training=self.training",
}  # fmt: skip


def called(node: fx.Node) -> str:
    """What an operation calls, by a name for people."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def unknown(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[tuple[str, str], str]:
    """What an operation is and what to do, and where it stands."""
    what, place = called(node), place_of(node).strip(" ()")
    if node.op == "get_attr":
        what = "a tensor of the network's own"
        place = f"{node.target}, {place}"
    elif node.op == "call_module":
        what = type(modules[str(node.target)]).__name__
        place = f"{node.target}, {place}"
    return (what, WAYS_OUT.get(what, KNOWN)), place


def _unfit(module: nn.Module) -> str:
    """What a module of a known kind does that raysp doesn't, and what to do; empty for nothing."""
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_mean is None:
        return "its results depend on the other images of a batch; give it track_running_stats=True"
    if isinstance(module, nn.MaxPool2d) and module.return_indices:
        return "it gives indices, too; leave return_indices out"
    if isinstance(module, nn.AvgPool2d) and module.divisor_override:
        return "it divides by another number; leave divisor_override out"
    if not all(parameter.requires_grad for parameter in module.parameters()):
        return "it is frozen, and raysp trains every weight; leave requires_grad on"
    if module._forward_pre_hooks or module._forward_hooks:
        return "it has hooks, which no saved network keeps; remove them (torch.nn.utils.remove_weight_norm and its like)"
    return ""


@dataclass
class Translation:
    """A pass over what was recorded; `result` makes it."""

    theirs: dict[str, nn.Module]
    traced: fx.Graph
    shapes: dict[str, tuple[int, ...]]
    relu6: bool
    place: str
    nodes: list[Node] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    names: dict[fx.Node, str] = field(default_factory=dict)
    memory: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Which result's memory each one lies in."""
    troubles: list[str] = field(default_factory=list)
    unknown: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Operations that aren't known, by what they are and what to do: where each stands."""
    logits: str = ""

    def result(self) -> Traced:
        """The graph and its modules.

        Raises:
            Untraceable: something isn't known.
        """
        paths = [str(n.target) for n in self.traced.nodes if n.op == "call_module"]
        self.several = {path for path in paths if paths.count(path) > 1}
        self.position = {node: number for number, node in enumerate(self.traced.nodes)}
        for node in self.traced.nodes:
            if node.op == "placeholder":
                self.names[node] = IMAGE
            elif node.op == "output":
                self._output(node)
            elif node.name in self.shapes:
                if not self._known(node):
                    self._refuse(node)
                self._remember(node)
        for (what, way), places in self.unknown.items():
            more = f", and {len(places) - 1} more" if len(places) > 1 else ""
            self.troubles.append(f"{what} isn't known, at {places[0]}{more}: {way}")
        if self.troubles:
            raise Untraceable("; ".join(dict.fromkeys(self.troubles)))
        graph = Graph(nodes=tuple(self.nodes), exits={"final": self.logits}).pruned()
        reached = {node.module for node in graph.nodes}
        # In the order of the user's own, so that the weights' order is theirs too; made ones follow.
        order = [path for path in (*self.theirs, *self.modules) if path in reached]
        modules = {path: self.modules[path] for path in dict.fromkeys(order)}
        owners: dict[int, str] = {}
        for path, module in modules.items():
            for name, parameter in module.named_parameters():
                if (owner := owners.setdefault(id(parameter), path)) != path:
                    raise Untraceable(
                        f"{path}.{name} is {owner}'s weight too; expected each layer's own, or one layer called twice"
                    )
        return Traced(graph=graph, modules=modules, place=self.place)

    def _remember(self, node: fx.Node) -> None:
        """Where a result lies; and if it overwrote another, who reads that one later reads the new values."""
        x = next((arg for arg in node.args if isinstance(arg, fx.Node) and arg in self.names), node)
        module = self.theirs.get(str(node.target)) if node.op == "call_module" else None
        function = None if module else node.target
        inplace = function in IN_PLACE or bool(node.kwargs.get("inplace") or getattr(module, "inplace", False))
        view = function in (*FLATTENINGS, "contiguous", operator.getitem) or isinstance(module, nn.Flatten | nn.Identity)
        self.memory[node] = self.memory.get(x, x) if inplace or view else node
        if not inplace:
            return
        old = self.names[x]
        for other in [n for n in self.names if n is not node and self.memory.get(n, n) is self.memory[node]]:
            if self.names[other] == old:
                self.names[other] = self.names[node]
            elif self.names[other] != self.names[node] and any(self.position[n] > self.position[node] for n in other.users):
                self.troubles.append(
                    f"{called(node)} overwrites what {other.name} is a part of{place_of(node)}; write it so that it doesn't"
                )

    def _output(self, node: fx.Node) -> None:
        (result,) = node.args
        if not isinstance(result, fx.Node) or len(self.shapes.get(result.name, ())) != 2:
            shape = self.shapes.get(result.name) if isinstance(result, fx.Node) else None
            what = f"a map of shape {shape[1:]}" if shape else f"a {type(result).__name__.removeprefix('immutable_')}"
            self.troubles.append(f"the network gives {what}{self.place}; expected logits alone, one per class")
        else:
            self.logits = self.names.get(result, "")

    def _refuse(self, node: fx.Node) -> None:
        self.names[node] = node.name  # what reads it can still be looked at
        if node.target is operator.getitem and self.shapes.get(node.all_input_nodes[0].name) == ():
            return  # one of several results; what gave them is named
        (what, way), place = unknown(node, self.theirs)
        if node.op == "call_module":
            way = _unfit(self.theirs[str(node.target)]) or way
        if self.reads_images(node):
            way = "it reads the images; put a convolution before it"
        self.unknown.setdefault((what, way), []).append(place)

    def reads_images(self, node: fx.Node) -> bool:
        """Whether it is a ReLU of the images themselves."""
        is_relu = isinstance(self.theirs.get(str(node.target)), nn.ReLU) if node.op == "call_module" else node.target in RELUS
        return is_relu and any(self.names.get(x) == IMAGE for x in node.all_input_nodes)

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
            if not given and len(node.args) == 2 and 0 in node.args:  # as `sum` begins
                self.names[node] = self.names[x]
                return True
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
            rest = dict(zip(("mode", "value"), node.args[2:], strict=False)) | given
            zeros = not rest.get("value") and rest.get("mode", "constant") == "constant"
            return bool(zeros) and isinstance(widths, list | tuple) and self._function(node, "pad", [x], tuple(widths))
        if target is operator.getitem:
            return self._slice(node, x)
        made = module_for(target, node.args[1:], given, shape)
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
        if type(module) not in FIELDS or _unfit(module):
            return False
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            return self._add(node, type(module)(module.p), path, x)  # theirs may overwrite what it reads
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
        flat = (len(after) == 2 or after[2:] == (1,)) and after[0] == before[0] == IMAGES
        return flat and self._add(node, nn.Flatten(), path or node.name, x)

    def _mean(self, node: fx.Node, x: fx.Node) -> bool:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if node.kwargs.get("dtype") is not None or not isinstance(axes, list | tuple) or sorted(a % 4 for a in axes) != [2, 3]:
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
        read, name = tuple(self.names[x] for x in inputs), self._name(node, node.name)
        self.names[node] = name
        self.nodes.append(Node(name=name, inputs=read, function=function, options=options))
        return True

    def _name(self, node: fx.Node, path: str) -> str:
        """A name that no other node has, nor the image, nor another module."""
        taken, own = {IMAGE, *(n.name for n in self.nodes)}, node.op == "call_module" and path == node.target
        if path not in self.several and path not in taken and (own or path not in self.theirs):
            return path
        number = 1
        while (name := f"{path}_{number}") in taken or name in self.theirs:
            number += 1
        return name

    def _add(self, node: fx.Node, module: nn.Module, path: str, x: fx.Node, *, shared: bool = False) -> bool:
        """A node that calls a module. One that has no weights is each caller's own; `shared` ones are called by all."""
        read, name = self.names[x], self._name(node, path)
        own = path if shared else name
        self.modules.setdefault(own, module)
        self.names[node] = name
        self.nodes.append(Node(name=name, inputs=(read,), module=own))
        return True


def module_for(target: Any, args: tuple[Any, ...], given: Mapping[str, Any], shape: tuple[int, ...] = ()) -> nn.Module | None:
    """The module that does what a function does, if there is one."""
    kinds: dict[Any, tuple[type[nn.Module], tuple[str, ...]]] = {
        F.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
        torch.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
        F.avg_pool2d: (nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
        F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
        F.dropout: (nn.Dropout, ("p",)),
        F.dropout2d: (nn.Dropout2d, ("p",)),
    }
    if target not in kinds:
        return None
    kind, names = kinds[target]
    if len(args) > len(names) or any(value for key, value in given.items() if key not in (*names, "inplace")):
        return None  # what the module doesn't do, or does in training only
    fields = dict(zip(names, args, strict=False)) | {k: v for k, v in given.items() if k in names}
    if any(isinstance(value, fx.Node) for value in fields.values()):
        if kind is nn.AvgPool2d and shape[2:] == (1, 1):
            return nn.AdaptiveAvgPool2d(1)  # over the whole map, whose size was asked for
        return None
    return kind(**fields)
