"""A party's side of a run under SPU, in its own process.

Contract: its sockets listen on the address that it is given and on no other.
"""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysp.pi.engine import Party, PortTaken, Statistics
from raysp.pi.secretflow.configuration import runtime_config
from raysp.pi.secretflow.log import parse
from raysp.pi.wire import address_of, family_of

RECEIVE_TIMEOUT_S = 3600
"""How long a party waits for the other's message; whoever started both sees at once when one of them ends."""


class SpuParty(Party):
    """A connected SPU.

    Args:
        rank: see `Engine.connect`, as for all but the last.
        host: and so on.
        ports: and so on.
        protocol: and so on.
        log: the file that the engine writes its statistics to.

    Raises:
        PortTaken: another process listens on its port.
    """

    def __init__(self, rank: int, host: str, ports: Sequence[int], protocol: str, log: Path) -> None:
        import spu
        from spu import libspu

        with socket.socket(family_of(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, ports[rank]))
            except OSError as error:
                raise PortTaken(error.strerror) from None
        options = libspu.logging.LogOptions()
        options.enable_console_logger = False
        options.system_log_path = str(log)
        libspu.logging.setup_logging(options)
        description = libspu.link.Desc()
        description.recv_timeout_ms = RECEIVE_TIMEOUT_S * 1000
        description.connect_retry_times = 60
        description.connect_retry_interval_ms = 500
        for number, port in enumerate(ports):
            description.add_party(f"party{number}", address_of(host, port))
        self._link = libspu.link.create_brpc(description, rank)
        self._runtime = spu.Runtime(self._link, runtime_config(protocol))
        self._program = libspu.Executable()
        self._log, self._seen = log, 0

    def load(self, code: bytes, shares: Mapping[str, Sequence[bytes]]) -> None:
        """See `Party`."""
        for name, parts in shares.items():
            self._runtime.set_var(name, share_of(parts))
        self._program.ParseFromString(code)

    def meet(self) -> None:
        """See `Party`."""
        self._seen = self._log.stat().st_size
        self._link.barrier()

    def run(self) -> None:
        """See `Party`."""
        self._runtime.run(self._program)

    def result(self) -> Sequence[bytes]:
        """See `Party`."""
        share = self._runtime.get_var(self._program.output_names[0])
        return [share.meta, *share.share_chunks]

    def statistics(self) -> Statistics:
        """See `Party`."""
        with self._log.open("rb") as file:
            file.seek(self._seen)
            return parse(file.read().decode(errors="replace"))


def share_of(parts: Sequence[bytes]) -> Any:
    """SPU's share of a value, from its description and its chunks."""
    from spu import libspu

    share = libspu.Share()
    share.meta, share.share_chunks = parts[0], list(parts[1:])
    return share
