"""A network as a list of operations: data, which every other module walks.

Owns the list and what can be said of it without its modules. Refuses to compute. Contract: nodes stand in an order in which they
can be computed, and each name is one node's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGE = "image"
"""Name of the input."""

Options = tuple[int | None, ...]


def _slice(x_nchw: Tensor, *bounds: int | None) -> Tensor:
    return x_nchw[(slice(None), *(slice(*bounds[i : i + 3]) for i in range(0, len(bounds), 3)))]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "cat": lambda *maps: torch.cat(maps, dim=1),
    "pad": lambda x, *widths: F.pad(x, widths),
    "slice": _slice,
}
"""Operations without weights that are no module; `pad` takes zeros at both ends of each axis, the last axis first; `slice` takes
start, stop and step for channels, height and width."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: reads the results of earlier ones and gives one of its own."""

    name: str
    """Its module's path, or for a second call of one module and for functions a name of its own."""
    inputs: tuple[str, ...]
    module: str | None = None
    """Path of the module that it calls; None for a function."""
    function: str | None = None
    """A name in `FUNCTIONS`."""
    options: Options = ()
    """What the function takes besides its inputs."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Node":
        return self  # nothing in it changes, and networks are copied often


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network's operations, its exits, and the maps that it shows besides."""

    nodes: tuple[Node, ...]
    exits: Mapping[str, str] = field(default_factory=dict)
    """Node that gives the logits, by the exit's name; auxiliary ones in the order of their places, then the final one."""
    features: tuple[str, ...] = ()
    """Nodes whose maps are compared with the teacher's, one for each stage."""

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def readers(self) -> dict[str, list[str]]:
        """Who reads each result, by name; an exit or a feature counts as one reader more, of the empty name."""
        found: dict[str, list[str]] = {name: [] for name in (IMAGE, *(node.name for node in self.nodes))}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node.name)
        for name in (*self.exits.values(), *self.features):
            found[name].append("")
        return found

    def pruned(self, exits: Iterable[str] | None = None) -> "Graph":
        """Only what some exits need; all of them by default. Features that nothing else needs go."""
        kept = {name: node for name, node in self.exits.items() if exits is None or name in set(exits)}
        needed = set(kept.values())
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        nodes = tuple(node for node in self.nodes if node.name in needed)
        return Graph(nodes=nodes, exits=kept, features=tuple(name for name in self.features if name in needed))

    def without(self, stand_in: Mapping[str, str]) -> "Graph":
        """Without some nodes, each of which has another, earlier one whose result is read in its place."""

        def of(name: str) -> str:
            while name in stand_in:
                name = stand_in[name]
            return name

        graph = self.read_as({name: of(name) for name in stand_in})
        return replace(graph, nodes=tuple(node for node in graph.nodes if node.name not in stand_in))

    def read_as(self, other: Mapping[str, str]) -> "Graph":
        """With the results of other nodes read in place of some."""
        return Graph(
            nodes=tuple(replace(n, inputs=tuple(other.get(name, name) for name in n.inputs)) for n in self.nodes),
            exits={name: other.get(node, node) for name, node in self.exits.items()},
            features=tuple(other.get(name, name) for name in self.features),
        )

    def followed_by(self, name: str, nodes: Iterable[Node]) -> "Graph":
        """With more nodes, right behind one."""
        place = [node.name for node in self.nodes].index(name) + 1
        return replace(self, nodes=(*self.nodes[:place], *nodes, *self.nodes[place:]))

    def cuts(self) -> list[str]:
        """Nodes at which one result alone is alive: all that comes later depends on nothing else that came before."""
        last = dict.fromkeys((IMAGE, *(node.name for node in self.nodes)), -1)
        for index, node in enumerate(self.nodes):
            for name in node.inputs:
                last[name] = index
        for name in self.exits.values():
            last[name] = len(self.nodes)
        found, until = [], last[IMAGE]
        for index, node in enumerate(self.nodes):
            if until <= index:
                found.append(node.name)
            until = max(until, last[node.name])
        return found
