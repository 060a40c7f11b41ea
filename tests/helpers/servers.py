"""Servers on loopback that a test starts."""

import socket
import time


def wait_until_it_listens(port, process):
    """Wait for the server that a process is to be."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
