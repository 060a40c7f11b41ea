"""SPU as an `Engine`: what it needs, and shares of values. The program is `program.py`'s, a party's side `party.py`'s."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysp.pi.engine import Engine, Party, Program
from raysp.pi.secretflow.configuration import KINDS, runtime_config
from raysp.pi.secretflow.party import SpuParty, share_of
from raysp.store.extras import remedy_for

if TYPE_CHECKING:
    from torch import Tensor

    from raysp.latency.graph import Graph
    from raysp.pi.engine import Array


class Spu(Engine):
    """SPU, of whatever version is installed."""

    packages = ("spu", "jax", "jaxlib")
    protocols = tuple(KINDS)

    def require(self) -> None:
        """See `Engine`."""
        if missing := [name for name in ("spu", "jax") if importlib.util.find_spec(name) is None]:
            raise ValueError(f"private inference needs {' and '.join(missing)}: {remedy_for('pi')} (Python 3.11 or 3.12)")

    def compile(self, graph: "Graph", image_chw: "Tensor", *, shared: bool = False) -> Program:
        """See `Engine`."""
        from raysp.pi.secretflow.program import compile_program  # imports torch, which a party's process does without

        return compile_program(graph, image_chw, shared=shared)

    def shares_of(self, program: Program, protocol: str) -> list[Mapping[str, Sequence[bytes]]]:
        """See `Engine`. A share is its description, and its chunks."""
        import spu

        io = spu.Io(2, runtime_config(protocol))
        parties: list[dict[str, Sequence[bytes]]] = [{}, {}]
        for name, (value, owner) in program.inputs.items():
            for party, share in zip(parties, io.make_shares(value, spu.Visibility.VIS_SECRET, owner), strict=True):
                party[name] = [share.meta, *share.share_chunks]
        return [*parties]

    def reconstruct(self, shares: Sequence[Sequence[bytes]], protocol: str) -> "Array":
        """See `Engine`."""
        import spu

        return np.asarray(spu.Io(2, runtime_config(protocol)).reconstruct([share_of(parts) for parts in shares]))

    def connect(self, *, rank: int, host: str, ports: Sequence[int], protocol: str, directory: Path) -> Party:
        """See `Engine`."""
        return SpuParty(rank, host, ports, protocol, directory / f"party{rank}.log")


ENGINE = Spu()
