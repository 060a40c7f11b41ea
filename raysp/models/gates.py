"""The gate that replaces two convolutions by one, gradually: output = γ·f_GB(X) + (1 − γ)·f_MB(X), where f_MB are the two
convolutions with the ReLU between, and f_GB is one CONV-BN ("Making Models Shallow Again", CVPR-W 2023, section 4).

Owns the gate, which pairs of convolutions it can stand for, and the shallow branch's shape. Refuses to decide which are gated and
how γ grows (`raysp.stages.finetune`, `raysp.training.recipes`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysp.models.graph import IMAGE, Graph
from raysp.models.relu import MaskedReLU


class Gate(nn.Module):
    """Mixes a shallow and a main branch. At γ = 0 and 1 the network computes only the branch that counts, and no gate."""

    _shares: Tensor

    def __init__(self) -> None:
        super().__init__()
        # γ and 1 − γ: no compiled code depends on the number.
        self.register_buffer("_shares", torch.zeros(2, dtype=torch.float64), persistent=False)
        self.gamma = 0.0

    @property
    def gamma(self) -> float:
        """γ ∈ [0, 1]."""
        return self._gamma

    @gamma.setter
    def gamma(self, gamma: float) -> None:
        self._gamma = gamma
        with torch.no_grad():
            self._shares.copy_(torch.tensor((gamma, 1.0 - gamma), dtype=torch.float64))

    @property
    def decided(self) -> str:
        """Which branches are computed."""
        return {0.0: "main", 1.0: "shallow"}.get(self._gamma, "both")

    def forward(self, shallow_nchw: Tensor, main_nchw: Tensor) -> Tensor:
        """γ·shallow + (1 − γ)·main."""
        return self._shares[0] * shallow_nchw + self._shares[1] * main_nchw


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Two convolutions with a ReLU between that nothing else reads: what one gate can stand for. All fields are nodes' names."""

    name: str
    """The module that holds both convolutions, where it holds no other chain; else the first convolution."""
    first: str
    inner: str
    """The ReLU between them."""
    second: str
    last: str
    """The batch norm behind the second convolution, or that convolution."""
    shallow: str = ""
    """Path of the shallow branch, if there is one: a convolution and a batch norm."""
    gate: str = ""
    """Its gate."""


def find_chains(graph: Graph, modules: Mapping[str, nn.Module]) -> list[Chain]:
    """All chains of a network, front to back. A convolution belongs to at most one, and the network's first to none.

    Args:
        graph: whole, without gates.
        modules: by path.
    """
    readers = graph.readers()
    nodes = {node.name: node for node in graph.nodes}
    calls = [node.module for node in graph.nodes]

    def is_a(name: str, kind: type[nn.Module]) -> bool:
        node = nodes.get(name)
        return node is not None and isinstance(modules.get(node.module or ""), kind) and calls.count(node.module) == 1

    def only_reader(name: str, kind: type[nn.Module]) -> str:
        return readers[name][0] if len(readers[name]) == 1 and is_a(readers[name][0], kind) else ""

    found: list[Chain] = []
    used = {next((node.name for node in graph.nodes if is_a(node.name, nn.Conv2d)), IMAGE)}
    for node in graph.nodes:
        if node.name in used or not is_a(node.name, nn.Conv2d):
            continue
        inner = only_reader(only_reader(node.name, nn.BatchNorm2d) or node.name, MaskedReLU)
        second = only_reader(inner, nn.Conv2d) if inner else ""
        if not second or second in used or not _mergeable(*(modules[nodes[name].module or ""] for name in (node.name, second))):
            continue
        used |= {node.name, second}
        last = only_reader(second, nn.BatchNorm2d) or second
        parent = _common_parent(node.name, second)
        found.append(Chain(name=parent, first=node.name, inner=inner, second=second, last=last))
    parents = [chain.name for chain in found]
    alone = {parent for parent in parents if parent and parents.count(parent) == 1}
    return [c if c.name in alone else Chain(**{**vars(c), "name": c.first}) for c in found]


def _common_parent(first: str, second: str) -> str:
    shared = []
    for a, b in zip(first.split("."), second.split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)


def _mergeable(first: nn.Module, second: nn.Module) -> bool:
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    return all(
        conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and exact % 2 == 1
        for conv in (first, second)
        for exact in exact_kernel(first, second)
    )


def exact_kernel(first: nn.Conv2d, second: nn.Conv2d) -> tuple[int, int]:
    """The kernel of the one convolution that two in a row come to: k1 + (k2 − 1)·s1 per axis, for kernels k with their gaps."""
    spans = [[d * (k - 1) + 1 for k, d in zip(c.kernel_size, c.dilation, strict=True)] for c in (first, second)]
    height, width = (k1 + (k2 - 1) * s for k1, k2, s in zip(*spans, first.stride, strict=True))
    return height, width


def shallow_branch(first: nn.Conv2d, second: nn.Conv2d, kernel_size: int) -> nn.Sequential:
    """A CONV-BN in place of two convolutions, with random weights.

    Args:
        first, second: what it replaces.
        kernel_size: odd; on an axis where the exact kernel is smaller, that is taken, and where the two have so little padding
            that their map would be smaller than such a kernel's, the smallest that gives theirs.
    """
    exact = exact_kernel(first, second)
    room = [p1 + s1 * p2 for p1, s1, p2 in zip(_padding(first), first.stride, _padding(second), strict=True)]
    height, width = (min(whole, max(kernel_size, whole - 2 * p)) for whole, p in zip(exact, room, strict=True))
    up, left = (p - (whole - k) // 2 for whole, p, k in zip(exact, room, (height, width), strict=True))
    conv = nn.Conv2d(
        first.in_channels,
        second.out_channels,
        (height, width),
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        padding=(up, left),
        groups=math.gcd(first.groups, second.groups),
        bias=False,
    )
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="linear")
    return nn.Sequential(conv, nn.BatchNorm2d(second.out_channels))


def _padding(conv: nn.Conv2d) -> tuple[int, ...]:
    assert not isinstance(conv.padding, str)
    return conv.padding
