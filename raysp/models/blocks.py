"""A pair of convolutions of a network, with the gate that it may have: a view, which holds nothing itself."""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from torch import nn

from raysp.models.gates import Chain, Gate, shallow_branch
from raysp.models.graph import Node
from raysp.models.relu import MaskedReLU

if TYPE_CHECKING:
    from raysp.models.network import Network


class GatedBlock:
    """A pair of convolutions of a network, with the gate that it may have."""

    def __init__(self, network: "Network", index: int) -> None:
        self._network, self._index = network, index

    @property
    def chain(self) -> Chain:
        """Its nodes."""
        return self._network.chains[self._index]

    @property
    def inner_relu(self) -> MaskedReLU:
        """The ReLU between the convolutions."""
        return cast(MaskedReLU, self._module(self.chain.inner))

    @property
    def convs(self) -> tuple[nn.Conv2d, nn.Conv2d]:
        """Its convolutions."""
        return cast(nn.Conv2d, self._module(self.chain.first)), cast(nn.Conv2d, self._module(self.chain.second))

    @property
    def shallow(self) -> nn.Sequential | None:
        """The shallow branch, a convolution and a batch norm."""
        return cast(nn.Sequential, self._network.module_at(self.chain.shallow)) if self.chain.shallow else None

    @property
    def gate(self) -> float:
        """γ ∈ [0, 1]."""
        return cast(Gate, self._network.module_at(self.chain.gate)).gamma if self.chain.gate else 0.0

    @gate.setter
    def gate(self, gamma: float) -> None:
        cast(Gate, self._network.module_at(self.chain.gate)).gamma = gamma
        self._network.plan()

    def main_ends(self) -> tuple[nn.Module, nn.Module]:
        """The main branch's first module, which reads what the shallow one reads, and its last, whose output the gate mixes."""
        return self._module(self.chain.first), self._module(self.chain.last)

    def add_shallow_branch(self, kernel_size: int) -> None:
        """Give the block a CONV-BN in place of its two convolutions, with random weights and the gate at 0.

        Args:
            kernel_size: odd; no larger than what the two convolutions see is taken.
        """
        chain, network = self.chain, self._network
        branch = shallow_branch(*self.convs, kernel_size)
        holds_both = chain.name != chain.first
        shallow, gate = (network.free_path(f"{chain.name}{'.' if holds_both else '_'}{part}") for part in ("shallow", "gate"))
        network.hold(shallow, branch)
        network.hold(gate, Gate().to(next(branch.parameters()).device))
        network.chains[self._index] = replace(chain, shallow=shallow, gate=gate)
        nodes = [
            Node(name=f"{shallow}.0", inputs=network.graph[chain.first].inputs, module=f"{shallow}.0"),
            Node(name=f"{shallow}.1", inputs=(f"{shallow}.0",), module=f"{shallow}.1"),
            Node(name=gate, inputs=(f"{shallow}.1", chain.last), module=gate),
        ]
        network.set_graph(network.graph.read_as({chain.last: gate}).followed_by(chain.last, nodes))

    def _module(self, node: str) -> nn.Module:
        path = self._network.graph[node].module
        assert path is not None
        return self._network.module_at(path)
