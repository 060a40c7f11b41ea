"""Waiting for what another process does."""

import time


def wait_for(what, timeout_s=60, process=None):
    """Until `what()` is true; fails when that takes longer, or when the process has ended that is to do it."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        assert process is None or process.poll() is None, f"ended with status {process.returncode} before"
        time.sleep(0.05)
