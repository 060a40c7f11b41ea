"""What an engine of private inference gives: the one place through which the rest of this room knows one.

Owns the interface, and which engine is used. Refuses to know any: `CHOSEN` names its module, and nothing else of raysp imports
that, or what it needs (for SPU and JAX `lint-imports` holds this). Contract: imports neither torch nor numpy, because a party's
process may do without.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from raysp.latency.graph import Graph

    Array = np.ndarray[Any, np.dtype[Any]]

CHOSEN = "raysp.pi.secretflow.engine"
"""The module whose `ENGINE` is the engine."""
SERVER, CLIENT, NOBODY = 0, 1, -1
"""Ranks of the parties: the first has the weights, the second the image."""


class PortTaken(OSError):
    """A party can't listen on its port; says why."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What both parties are given."""

    code: bytes
    """What is computed, in the engine's own form; masks are public, and part of it."""
    inputs: "Mapping[str, tuple[Array, int]]"
    """Values by name, and which party each is the secret of; `NOBODY` where both have a random share."""


@dataclass(frozen=True, kw_only=True)
class OperationStatistics:
    """All of a run's operations of one kind, as one party sees them."""

    operation: str
    """The engine's name for it. SPU's: convolution, dot, less (a ReLU's comparison), multiply (its selection), add, ..."""
    times: int
    wall_s: float
    sent_bytes: int
    messages: int
    """That this party has sent."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A run, as one party sees it."""

    sent_bytes: int
    messages: int
    """That this party has sent."""
    operations: tuple[OperationStatistics, ...] = ()


class Party(ABC):
    """One of two connected parties, in a process of its own. It knows its own shares alone."""

    @abstractmethod
    def load(self, code: bytes, shares: Mapping[str, Sequence[bytes]]) -> None:
        """Take a program, and this party's share of each input, as `Engine.shares_of` made it."""

    @abstractmethod
    def meet(self) -> None:
        """Wait for the other party, so that both begin at once. Isn't timed."""

    @abstractmethod
    def run(self) -> None:
        """Run the program that was loaded last. This alone is timed."""

    @abstractmethod
    def result(self) -> Sequence[bytes]:
        """This party's share of what the last run gave, as `Engine.reconstruct` takes it."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """What the last run took.

        Raises:
            ValueError: nobody knows. Nothing is ever counted as 0 because it isn't known.
        """


class Engine(ABC):
    """Two-party computation, as measuring needs it. Its module is imported where its packages are missing, too."""

    packages: ClassVar[tuple[str, ...]]
    """Whose versions are kept beside each measurement. Costs depend on the first one's: calibrations of two are never mixed."""
    protocols: ClassVar[tuple[str, ...]]
    """Those that it speaks, of `raysp.latency.protocols`."""

    @abstractmethod
    def require(self) -> None:
        """Raise ValueError, with what to install, where the engine is missing."""

    @abstractmethod
    def compile(self, graph: "Graph", image_chw: "Tensor", *, shared: bool = False) -> Program:
        """Make the program that computes a graph for one image; its result is what the last operation gives.

        Args:
            graph: what is computed.
            image_chw: of the graph's input shape.
            shared: give each party a random share of the image, as of a map between two layers, and neither the whole.

        Raises:
            ValueError: an operation that the engine can't run.
        """

    @abstractmethod
    def shares_of(self, program: Program, protocol: str) -> Sequence[Mapping[str, Sequence[bytes]]]:
        """Split a program's inputs into the two parties' shares: per party, by name, any number of byte strings.

        Each party's is all that it is ever given: what is the other's secret it can't see.
        """

    @abstractmethod
    def reconstruct(self, shares: Sequence[Sequence[bytes]], protocol: str) -> "Array":
        """Put both parties' shares of a result together."""

    @abstractmethod
    def connect(self, *, rank: int, host: str, ports: Sequence[int], protocol: str, directory: Path) -> Party:
        """In a party's process: connect to the other one.

        Args:
            rank: this party's.
            host: the address that both parties listen on, and nowhere else.
            ports: theirs, by rank.
            protocol: one of `protocols`.
            directory: for files of the engine's own; it is deleted with the session. The other party has the same.

        Raises:
            PortTaken: something else listens there.
        """


def named(module: str) -> Engine:
    """The engine of a module."""
    return import_module(module).ENGINE


def chosen() -> Engine:
    """The engine that measures."""
    return named(CHOSEN)


def require_engine() -> None:
    """Raise ValueError, with what to install, where the engine is missing."""
    chosen().require()
