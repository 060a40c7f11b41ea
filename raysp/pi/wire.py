"""How a measurement and its two parties' processes talk: messages of a JSON header and binary parts over a pipe.

Nothing is unpickled.
"""

import json
import socket
from collections.abc import Mapping, Sequence
from typing import IO, Any

LOOPBACK = "127.0.0.1"
"""Where parties listen, unless told otherwise."""


def family_of(host: str) -> socket.AddressFamily:
    """What kind of socket listens on an address or a name: IPv4, unless it has IPv6 alone. Raises OSError for an unknown name."""
    families = {found[0] for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


def address_of(host: str, port: int) -> str:
    """As one text, in which an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def send(pipe: IO[bytes], header: Mapping[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Write a message, whole. Raises BrokenPipeError when nobody reads any more."""
    text = json.dumps({**header, "parts": [len(part) for part in parts]}).encode()
    pipe.write(b"%d\n" % len(text))
    pipe.write(text)
    for part in parts:
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Wait for a message. Raises EOFError when the other side has ended."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other side has ended")
    header = json.loads(_read(pipe, int(line)))
    return header, [_read(pipe, length) for length in header.pop("parts")]


def _read(pipe: IO[bytes], length: int) -> bytes:
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError("the other side has ended in the middle of a message")
    return content
