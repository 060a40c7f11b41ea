"""Two parties' processes, and running programs on them.

Owns the processes: starting them, what they are asked, their faults and their end. Refuses to know what a program computes.
Contract: when the session is over, for whatever reason, both processes have ended; a fault is a `PartyFault` with one line that
says what happened.
"""

import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysp.pi import engine, wire
from raysp.pi.engine import OperationStatistics, Program, Statistics
from raysp.pi.wire import LOOPBACK, family_of

if TYPE_CHECKING:
    from raysp.pi.engine import Array

LONGEST_S = 7 * 86400.0
"""Of time limits; a system call refuses those that never end."""
PORT_TRIES = 3
"""How often free ports are looked for: between finding one and listening on it, another process may take it."""


class PartyFault(RuntimeError):
    """A party's process died, failed, or took too long."""


class _PortTaken(PartyFault):
    """Another process listens on a party's port."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One party's side of one run."""

    wall_s: float
    cpu_s: float
    """User and system time of its process, all threads."""
    peak_bytes: int
    """Most memory that the process has held so far."""
    statistics: Statistics


class Session:
    """Two connected parties. Made by `session`."""

    def __init__(self, protocol: str, deadline: float, directory: Path) -> None:
        self.parties: list[subprocess.Popen[bytes]] = []
        self.engine, self.protocol = engine.chosen(), protocol
        self._deadline, self._directory = deadline, directory

    def start(self, host: str, ports: tuple[int, int]) -> None:
        """Start both processes, and connect them."""
        for rank in range(2):
            with (self._directory / f"party{rank}.err").open("wb") as said:
                party = subprocess.Popen(
                    [sys.executable, "-m", "raysp.pi.party"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            self.parties.append(party)
            start = {"rank": rank, "host": host, "ports": ports, "protocol": self.protocol}
            self._tell(party, {**start, "engine": engine.CHOSEN, "directory": str(self._directory)})
        self.answers()

    def end(self) -> None:
        """End both processes, whatever they do."""
        for party in self.parties:
            party.kill()
        for party in self.parties:
            assert party.stdin
            assert party.stdout
            party.stdout.close()
            with suppress(BrokenPipeError):  # what it was still to be told
                party.stdin.close()
            party.wait()
        self.parties.clear()

    def load(self, program: Program) -> None:
        """Give both parties a program and their shares of its inputs."""
        for party, shares in zip(self.parties, self.engine.shares_of(program, self.protocol), strict=True):
            header = {"do": "load", "inputs": [(name, len(share)) for name, share in shares.items()]}
            self._tell(party, header, [*(part for share in shares.values() for part in share), program.code])
        self.answers()

    def run(self) -> "tuple[list[Run], Array]":
        """Run the program that was loaded last; returns the server's and the client's side, and the result."""
        for party in self.parties:
            self._tell(party, {"do": "run"})
        answers = self.answers()
        runs = [Run(**(header | {"statistics": _statistics(**header["statistics"])})) for header, _ in answers]
        return runs, self.engine.reconstruct([share for _, share in answers], self.protocol)

    def _tell(self, party: "subprocess.Popen[bytes]", header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        assert party.stdin
        try:
            wire.send(party.stdin, header, parts)
        except BrokenPipeError:
            raise self._died(party) from None

    def answers(self) -> list[tuple[dict[str, Any], list[bytes]]]:
        """Wait for an answer from each party; from both at once, because one may die while the other waits for it."""
        found: dict[int, tuple[dict[str, Any], list[bytes]]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, party in enumerate(self.parties):
                assert party.stdout
                selector.register(party.stdout, selectors.EVENT_READ, rank)
            while len(found) < len(self.parties):
                ready = selector.select(max(0.0, self._deadline - time.monotonic()))
                if not ready:
                    raise PartyFault("the time limit is over; give a longer one, or measure a smaller model")
                for key, _ in ready:
                    party = self.parties[key.data]
                    try:
                        header, parts = wire.receive(party.stdout)
                    except EOFError:
                        raise self._died(party) from None
                    if "error" in header:
                        self._look_at(self.parties[1 - key.data])
                        kind = _PortTaken if header.get("port_taken") else PartyFault
                        raise kind(f"party {key.data}: {header['error']}")
                    selector.unregister(key.fileobj)
                    found[key.data] = (header, parts)
        return [found[rank] for rank in range(len(self.parties))]

    def _look_at(self, other: "subprocess.Popen[bytes]") -> None:
        """What a party complains of may be that the other one is gone: then that is what happened."""
        with suppress(subprocess.TimeoutExpired):
            if other.wait(timeout=0.5) < 0:
                raise self._died(other)

    def _died(self, party: "subprocess.Popen[bytes]") -> PartyFault:
        rank = self.parties.index(party)
        status = party.wait(timeout=10)
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        said = (self._directory / f"party{rank}.err").read_text(errors="replace").strip().splitlines()
        return PartyFault(f"party {rank} (process {party.pid}) {how} in mid-run" + (f": {said[-1][:300]}" if said else ""))


def _statistics(operations: Sequence[dict[str, Any]], **totals: int) -> Statistics:
    return Statistics(operations=tuple(OperationStatistics(**operation) for operation in operations), **totals)


@contextmanager
def session(
    protocol: str, *, host: str = LOOPBACK, ports: tuple[int, int] | None = None, limit_s: float = 3600.0
) -> Iterator[Session]:
    """Start two parties' processes on this machine, connected to each other; they end with the block.

    Args:
        protocol: one that the engine speaks.
        host: the address that both listen on.
        ports: theirs; None takes free ones.
        limit_s: seconds after which what runs is given up.

    Raises:
        ValueError: the engine doesn't speak the protocol.
        PartyFault: a process died or failed, a port is in use, or the time is over.
    """
    if protocol not in (spoken := engine.chosen().protocols):
        raise ValueError(f"protocol {protocol!r}, which the engine doesn't speak; expected one of {', '.join(spoken)}")
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="raysp-pi-") as directory:
        opened = Session(protocol, deadline, Path(directory))
        try:
            for left in reversed(range(1 if ports else PORT_TRIES)):
                try:
                    opened.start(host, ports or _free_ports(host))
                    break
                except _PortTaken:
                    if not left:
                        raise
                    opened.end()
            yield opened
        finally:
            opened.end()


def _free_ports(host: str) -> tuple[int, int]:
    try:
        kind = family_of(host)
        with socket.socket(kind) as first, socket.socket(kind) as second:
            first.bind((host, 0))
            second.bind((host, 0))
            return first.getsockname()[1], second.getsockname()[1]
    except OSError as error:
        raise PartyFault(f"nothing can listen on {host}: {error.strerror}; expected an address of this machine") from None
