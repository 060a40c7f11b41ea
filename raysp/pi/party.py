"""One party's process: `python -m raysp.pi.party`, started by `raysp.pi.session`, which it obeys and with which it dies.

Owns what a party is asked, and what is measured of its process. Contract: it knows only its own shares; when the process that
started it ends, however that happens, it ends too.
"""

import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raysp.pi import wire
from raysp.pi.engine import Party, PortTaken, named


def main() -> None:
    """Read the session's first message, connect to the other party, then run what is asked for until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints is no answer
    asked: queue.SimpleQueue[tuple[dict[str, Any], list[bytes]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    start, _ = asked.get()
    try:
        party = _connect(start)
    except Exception as error:  # the engine has errors of its own
        wire.send(answers, {"error": _said(error), "port_taken": isinstance(error, PortTaken)})
        os._exit(1)
    wire.send(answers, {"ready": True})
    while True:
        try:
            header, parts = asked.get()
            answer, out = _run(header, parts, party)
        except Exception as error:
            answer, out = {"error": _said(error)}, []
        wire.send(answers, answer, out)


def _listen(asked: "queue.SimpleQueue[tuple[dict[str, Any], list[bytes]]]") -> None:
    """Take messages in, while the engine works too: the pipe's end is the end of the process."""
    try:
        while True:
            asked.put(wire.receive(sys.stdin.buffer))
    finally:
        os._exit(0)


def _connect(start: dict[str, Any]) -> Party:
    rank, host, ports = start["rank"], start["host"], start["ports"]
    try:
        return named(start["engine"]).connect(
            rank=rank, host=host, ports=ports, protocol=start["protocol"], directory=Path(start["directory"])
        )
    except PortTaken as taken:
        raise PortTaken(
            f"party {rank} can't listen on {wire.address_of(host, ports[rank])}: {taken}; give other ports, or none"
        ) from None


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _run(header: dict[str, Any], parts: list[bytes], party: Party) -> tuple[dict[str, Any], Sequence[bytes]]:
    """Load a program (its shares and its code), or run the one that was loaded last."""
    if header["do"] == "load":
        remaining = iter(parts)
        shares = {name: [next(remaining) for _ in range(count)] for name, count in header["inputs"]}
        party.load(next(remaining), shares)
        return {}, []
    party.meet()
    began, cpu_began = time.perf_counter(), _cpu_s()
    party.run()
    took = {"wall_s": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu_began}
    result, statistics = party.result(), asdict(party.statistics())
    return {**took, "peak_bytes": _peak_bytes(), "statistics": statistics}, result


def _peak_bytes() -> int:
    """Most memory that this process has held. On Linux `ru_maxrss` is at least that of the process that started it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes where there is no /proc


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
