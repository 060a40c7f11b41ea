"""The network that all stages share: a graph of operations with masked ReLUs, gates and exits.

Owns the forward pass, the list of ReLU layers, the gated blocks and the exits. Refuses to know about training, and who wrote the
network. Contract: `relu_layers()` is in forward order and the same for teacher and student, so that layer l means the same in
both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from raysp.models.blocks import GatedBlock
from raysp.models.exits import AC_HEADS, FINAL, HeadShape, exit_name, stage_of
from raysp.models.gates import Chain, Gate
from raysp.models.graph import IMAGE, Graph, Node
from raysp.models.program import plan
from raysp.models.relu import MaskedReLU
from raysp.models.structure import Paths, shapes_of

HEADS = "heads"
"""What holds the auxiliary heads."""


@dataclass(frozen=True, kw_only=True)
class ReLULayer:
    """A ReLU layer of a network and what feeds it."""

    name: str
    relu: MaskedReLU
    conv: nn.Conv2d | nn.Linear
    """The convolution before it on the longest path; its share of non-zero weights is η_θ of equation 1. Behind a linear layer,
    that layer."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a forward pass gives."""

    logits: dict[str, Tensor]
    """(n, classes) per exit, by the exit's name; in float32 under autocast, because softmaxes are taken of them."""
    features: list[Tensor]
    """Each stage's output after its ReLU (n, c, h, w): the PRAM loss's pairs. A pre-activated stage's ReLU stands behind it, in
    the next stage's first block or in the final classifier, and its map is missing where those were cut off."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a network is called, and what it reads and tells apart."""

    name: str
    """Of the model, as users name it."""
    num_classes: int
    image_size: int
    """Height and width of the images in pixels."""
    in_channels: int
    points: tuple[str, ...]
    """Nodes at which the stages end."""
    width: int | None = None
    """Channels of the first stage, of a built-in network."""


class Network(nn.Module):
    """A network as its graph says.

    Args:
        graph: its operations.
        modules: what they call, by path.
        origin: its name and sizes.
        chains: what can be gated.
    """

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module], origin: Origin, chains: Sequence[Chain] = ()) -> None:
        super().__init__()
        self.origin, self.chains, self.graph = origin, list(chains), graph
        self.input_mean, self.input_std = [0.0] * origin.in_channels, [1.0] * origin.in_channels
        """What images in [0, 1] are normalised by before they come in, per channel; kept for whoever deploys the network."""
        self.left_out: frozenset[str] = frozenset()
        """Weights of the user's module that nothing is computed with, by name."""
        self.ac_heads: dict[str, str] = {}
        """Kind of each auxiliary head, by its exit."""
        for path, module in modules.items():
            self.hold(path, module)
        self.set_graph(graph)

    def hold(self, path: str, module: nn.Module) -> None:
        """Take a module in, at a path."""
        holder: nn.Module = self
        *parents, name = path.split(".")
        for parent in parents:
            if parent not in holder._modules:
                holder._modules[parent] = nn.Sequential()  # so that a branch or a head of two can be called by itself
            holder = cast(nn.Module, holder._modules[parent])
        if holder is self and (name in self.__dict__ or name == HEADS):
            raise ValueError(f"a module named {name!r} at the top of the network; that name is taken: call it something else")
        holder._modules[name] = module

    def free_path(self, path: str) -> str:
        """A path at which nothing lies: this one, if it can be."""
        while any(name == path or name.startswith(f"{path}.") for name, _ in self.named_modules()):
            path += "_"
        return path

    def module_at(self, path: str) -> nn.Module:
        """The module at a path."""
        holder: nn.Module = self
        for name in path.split("."):
            holder = cast(nn.Module, holder._modules[name])
        return holder

    def called(self) -> dict[str, nn.Module]:
        """The modules that the graph calls, by path."""
        return {node.module: self.module_at(node.module) for node in self.graph.nodes if node.module}

    def set_graph(self, graph: Graph) -> None:
        """Compute another graph of the modules from now on."""
        self.graph = graph
        self.plan()

    def plan(self) -> None:
        """Lay out anew what is computed; needed where a gate was set by hand."""
        self._steps, graph = plan(self.graph, self.called(), self)
        self._exits, self._features = dict(graph.exits), graph.features

    def forward(self, x_nchw: Tensor) -> Outputs:
        """Map normalised images (n, in_channels, image_size, image_size) to logits and stage outputs."""
        found = {IMAGE: x_nchw}
        for step in self._steps:
            inputs = [found[name] for name in step.inputs]
            found[step.name] = step.holder[step.key](*inputs)
            for name in step.done:
                del found[name]
        logits = {name: _in_full(found[node]) for name, node in self._exits.items()}
        return Outputs(logits=logits, features=[found[node] for node in self._features])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each result for one image, by its node; nothing is computed."""
        return shapes_of(self.graph, self.called(), (self.in_channels, self.image_size, self.image_size))

    @property
    def name(self) -> str:
        """The model's, as users name it."""
        return self.origin.name

    @property
    def width(self) -> int | None:
        """Channels of the first stage, of a built-in network."""
        return self.origin.width

    @property
    def num_classes(self) -> int:
        """Classes that it tells apart."""
        return self.origin.num_classes

    @property
    def image_size(self) -> int:
        """Height and width of its images in pixels."""
        return self.origin.image_size

    @property
    def in_channels(self) -> int:
        """Channels of its images."""
        return self.origin.in_channels

    @property
    def num_stages(self) -> int:
        """Stages, whether they are still there or were cut off."""
        return len(self.origin.points)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Its exits, the auxiliary ones first."""
        return tuple(self.graph.exits)

    def gated_blocks(self) -> list[tuple[str, GatedBlock]]:
        """The pairs of convolutions that can be gated, whether they are or not, with their names, in forward order."""
        return [(chain.name, GatedBlock(self, index)) for index, chain in enumerate(self.chains)]

    def relu_layers(self) -> list[ReLULayer]:
        """Every ReLU layer that the network has, auxiliary heads left out, in forward order."""
        modules = self.called()
        paths = Paths(self.graph, modules)
        return [
            ReLULayer(name=node.name, relu=relu, conv=paths.fed_by(node.name))
            for node in self.graph.nodes
            if isinstance(relu := modules.get(node.module or ""), MaskedReLU) and not self.in_ac_head(node.name)
        ]

    def in_ac_head(self, name: str) -> bool:
        """Whether a node belongs to an auxiliary head."""
        return any(name.startswith(f"{head_path(exit)}.") for exit in self.ac_heads)  # noqa: A001

    def num_relus(self) -> int:
        """Positions of `relu_layers` that could hold a ReLU, whether they do or not; `raysp.count_costs` counts those that do."""
        return sum(layer.relu.size for layer in self.relu_layers())

    def add_exit(self, after_stage: int, head: str) -> None:
        """Add an auxiliary classifier, exit `ac<after_stage>`. Its own ReLUs, if it has any, are all kept.

        Args:
            after_stage: from 1 to the number of stages minus 1.
            head: a name in `AC_HEADS`.

        Raises:
            ValueError: no such stage or head.
        """
        if self.num_stages == 1:
            raise ValueError(f"auxiliary classifier after stage {after_stage}; {self.name} has a single stage: expected none")
        if not 1 <= after_stage < self.num_stages:
            raise ValueError(
                f"auxiliary classifier after stage {after_stage}; expected a stage from 1 to {self.num_stages - 1} of "
                f"{self.name}'s {self.num_stages} (behind the last stands the final classifier)"
            )
        if head not in AC_HEADS:
            raise ValueError(f"unknown head {head!r}; expected one of {', '.join(AC_HEADS)}")
        if exit_name(after_stage) in self.graph.exits:
            raise ValueError(f"there is an auxiliary classifier after stage {after_stage} already; expected one for each stage")
        name, point = exit_name(after_stage), self.now(self.origin.points[after_stage - 1])
        module, nodes = AC_HEADS[head](self._head_shape(point)), [point]
        added = []
        for number in range(len(module)):
            path = f"{head_path(name)}.{number}"
            added.append(Node(name=path, inputs=(nodes[-1],), module=path))
            nodes.append(path)
        self.hold(head_path(name), module)
        self.ac_heads[name] = head
        exits = {**self.graph.exits, name: nodes[-1]}
        order = sorted(exits, key=lambda exit: self.num_stages if exit == FINAL else stage_of(exit))  # noqa: A006
        self.set_graph(replace(self.graph.followed_by(point, added), exits={key: exits[key] for key in order}))

    def now(self, node: str) -> str:
        """What stands for a node: the gate of the block that it ends, if there is one."""
        return next((chain.gate for chain in self.chains if chain.gate and chain.last == node), node)

    def _head_shape(self, point: str) -> HeadShape:
        shapes = self.shapes()
        (channels, size, width), (last_channels, last_size, _) = shapes[point], shapes[self.now(self.origin.points[-1])]
        if size != width:
            raise ValueError(f"a map of {size}x{width} at {point}; expected a square one for an auxiliary classifier")
        module = self.called().get(self.graph[point].module or "")
        return HeadShape(
            channels=channels,
            size=size,
            last_channels=last_channels,
            last_size=last_size,
            num_classes=self.num_classes,
            preactivated=not isinstance(module, MaskedReLU),
        )

    def set_gates(self, gamma: float) -> None:
        """Set γ ∈ [0, 1] of every block that has a shallow branch."""
        for chain in self.chains:
            if chain.gate:
                cast(Gate, self.module_at(chain.gate)).gamma = gamma
        self.plan()

    def decided(self) -> tuple[str, ...]:
        """What Python decides in a forward pass, by masks and gates. As long as it is the same, so are the operations."""
        return tuple(module.decided for module in self.modules() if isinstance(module, MaskedReLU | Gate))

    def example_input(self) -> Tensor:
        """One black image, (1, in_channels, image_size, image_size), on the CPU."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)


def head_path(exit: str) -> str:  # noqa: A002 (the field's word)
    """Where an exit's auxiliary head lies."""
    return f"{HEADS}.{exit}"


def _in_full(logits_nk: Tensor) -> Tensor:
    # Asked of torch, not of the tensor: who traces the network has no tensor.
    return logits_nk.float() if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))) else logits_nk
