"""One party's process: `python -m raysp.pi.party`, started by `raysp.pi.session`, which it obeys and with which it dies.

Owns the engine's side of a run. Contract: it knows only its own shares; its sockets listen on the address that it is given and on
no other; when the process that started it ends, however that happens, it ends too.
"""

import os
import queue
import resource
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from raysp.pi import wire
from raysp.pi.protocols import runtime_config
from raysp.pi.wire import address_of, family_of

RECEIVE_TIMEOUT_S = 3600
"""How long a party waits for the other's message; whoever started both sees at once when one of them ends."""


def main() -> None:
    """Read the session's first message, connect to the other party, then run what is asked for until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints is no answer
    asked: queue.SimpleQueue[tuple[dict[str, Any], list[bytes]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    start, _ = asked.get()
    try:
        runtime, link = _connect(start)
    except Exception as error:  # the engine has errors of its own
        wire.send(answers, {"error": str(error).splitlines()[0][:300], "port_taken": isinstance(error, _PortTakenError)})
        os._exit(1)
    wire.send(answers, {"ready": True})
    while True:
        try:
            header, parts = asked.get()
            answer, out = _run(header, parts, runtime, link, Path(start["log"]))
        except Exception as error:
            answer, out = {"error": (str(error).splitlines() or [type(error).__name__])[0][:300]}, []
        wire.send(answers, answer, out)


def _listen(asked: "queue.SimpleQueue[tuple[dict[str, Any], list[bytes]]]") -> None:
    """Take messages in, while the engine works too: the pipe's end is the end of the process."""
    try:
        while True:
            asked.put(wire.receive(sys.stdin.buffer))
    finally:
        os._exit(0)


class _PortTakenError(OSError):
    """Another process listens there."""


def _connect(start: dict[str, Any]) -> tuple[Any, Any]:
    import spu
    from spu import libspu

    rank: int = start["rank"]
    host, port = start["host"], start["ports"][rank]
    with socket.socket(family_of(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _PortTakenError(
                f"party {rank} can't listen on {address_of(host, port)}: {error.strerror}; give other ports, or none"
            ) from None
    options = libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = start["log"]
    libspu.logging.setup_logging(options)
    description = libspu.link.Desc()
    description.recv_timeout_ms = RECEIVE_TIMEOUT_S * 1000
    description.connect_retry_times = 60
    description.connect_retry_interval_ms = 500
    for number, other in enumerate(start["ports"]):
        description.add_party(f"party{number}", address_of(host, other))
    link = libspu.link.create_brpc(description, rank)
    return spu.Runtime(link, runtime_config(start["protocol"])), link


def _run(header: dict[str, Any], parts: list[bytes], runtime: Any, link: Any, log: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Load a program (its shares and its code), or run the one that was loaded last."""
    from spu import libspu

    if header["do"] == "load":
        remaining = iter(parts)
        for name, num_chunks in header["inputs"]:
            share = libspu.Share()
            share.meta, share.share_chunks = next(remaining), [next(remaining) for _ in range(num_chunks)]
            runtime.set_var(name, share)
        _loaded.ParseFromString(next(remaining))
        return {}, []
    seen = log.stat().st_size
    link.barrier()  # both begin at once
    began, cpu_began = time.perf_counter(), _cpu_s()
    runtime.run(_loaded)
    took = {"wall_s": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu_began}
    result = runtime.get_var(_loaded.output_names[0])
    with log.open("rb") as file:
        file.seek(seen)
        text = file.read().decode(errors="replace")
    return {**took, "peak_bytes": _peak_bytes(), "log": text}, [result.meta, *result.share_chunks]


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
    from spu import libspu

    _loaded = libspu.Executable()
    main()
