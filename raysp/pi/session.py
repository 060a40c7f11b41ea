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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysp.pi import wire
from raysp.pi.program import Array, Program, reconstruct, shares_of
from raysp.pi.statistics import Statistics, parse

LOOPBACK = "127.0.0.1"


class PartyFault(RuntimeError):
    """A party's process died, failed, or took too long."""


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

    def __init__(self, parties: "Sequence[subprocess.Popen[bytes]]", protocol: str, deadline: float, log: Path) -> None:
        self.parties, self.protocol, self._deadline, self._log = parties, protocol, deadline, log

    def load(self, program: Program) -> None:
        """Give both parties a program and their shares of its inputs."""
        for party, shares in zip(self.parties, shares_of(program, self.protocol), strict=True):
            parts = [part for meta, chunks in shares.values() for part in (meta, *chunks)]
            header = {"do": "load", "inputs": [(name, len(chunks)) for name, (_, chunks) in shares.items()]}
            self._tell(party, header, [*parts, program.code])
        self.answers()

    def run(self) -> tuple[list[Run], Array]:
        """Run the program that was loaded last; returns the server's and the client's side, and the result."""
        for party in self.parties:
            self._tell(party, {"do": "run"})
        answers = self.answers()
        runs = [
            Run(**{name: header[name] for name in ("wall_s", "cpu_s", "peak_bytes")}, statistics=parse(header["log"]))
            for header, _ in answers
        ]
        return runs, reconstruct([(meta, chunks) for _, (meta, *chunks) in answers], self.protocol)

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
                        raise PartyFault(f"party {key.data}: {header['error']}")
                    selector.unregister(key.fileobj)
                    found[key.data] = (header, parts)
        return [found[rank] for rank in range(len(self.parties))]

    def _died(self, party: "subprocess.Popen[bytes]") -> PartyFault:
        rank = self.parties.index(party)
        status = party.wait(timeout=10)
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        said = (self._log / f"party{rank}.err").read_text(errors="replace").strip().splitlines()
        return PartyFault(f"party {rank} (process {party.pid}) {how} in mid-run" + (f": {said[-1][:300]}" if said else ""))


@contextmanager
def session(
    protocol: str, *, host: str = LOOPBACK, ports: tuple[int, int] | None = None, limit_s: float = 3600.0
) -> Iterator[Session]:
    """Start two parties' processes on this machine, connected to each other; they end with the block.

    Args:
        protocol: see `raysp.pi.protocols`.
        host: the address that both listen on.
        ports: theirs; None takes free ones.
        limit_s: seconds after which what runs is given up.

    Raises:
        PartyFault: a process died or failed, a port is in use, or the time is over.
    """
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="raysp-pi-") as directory:
        parties: list[subprocess.Popen[bytes]] = []
        opened = Session(parties, protocol, deadline, Path(directory))
        try:
            chosen = ports or _free_ports(host)
            for rank in range(2):
                with (Path(directory) / f"party{rank}.err").open("wb") as said:
                    parties.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "raysp.pi.party"],
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=said,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                        )
                    )
                log = str(Path(directory) / f"party{rank}.log")
                start = {"rank": rank, "host": host, "ports": chosen, "protocol": protocol, "log": log}
                opened._tell(parties[-1], start)
            opened.answers()
            yield opened
        finally:
            for party in parties:
                party.kill()
            for party in parties:
                with party:  # closes its pipes and waits for it
                    pass


def _free_ports(host: str) -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        try:
            first.bind((host, 0))
            second.bind((host, 0))
        except OSError as error:
            raise PartyFault(f"nothing can listen on {host}: {error.strerror}; expected an address of this machine") from None
        return first.getsockname()[1], second.getsockname()[1]
