"""Runs a test of several machines apart from this one, and leaves nothing of it.

The test gets an operator's machine made of namespaces (`machines.py`), whose first process ends when its standard input does, and
takes all others along. So whatever becomes of the script, no process, link or mount outlives it; only its directory in /tmp
does, after a kill -9, or when something failed.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from machines import ADDRESS, ENVIRONMENT, NAMESPACES, OPERATOR, Failed, call, missing

START = time.monotonic()


def say(text):
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


def run(script, test, *, needed, limit_s, kept=()):
    """Do what a script is asked: `test(work)` on an operator's machine; the script's exit status.

    Args:
        script: its `__file__`, which is started anew on that machine.
        test: takes the directory to work in, with `logs` and `home` in it; raises Failed.
        needed: programs without which nothing is tried: `skipped: ...`, and status 0.
        limit_s: seconds that the test may take.
        kept: names in the directory that are worth reading when something failed, beside `logs`.
    """
    global START
    if len(sys.argv) > 1 and sys.argv[1] != OPERATOR:
        sys.exit(sys.modules["__main__"].__doc__)
    if len(sys.argv) > 1:
        START = float(sys.argv[3])  # the clock is the machine's, and the same in all its processes
        return _operate(test, Path(sys.argv[2]))
    if why := missing(needed):
        print(f"skipped: {why}")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # like Ctrl-C: an exception, so that all is cleared away
    work = Path(tempfile.mkdtemp(prefix="rsp-", dir="/tmp"))  # short, for sockets
    for name in ("logs", "home"):
        (work / name).mkdir()
    before = _traces(work.name)
    status = 1
    try:
        status = _start_operator(script, work, limit_s)
    except KeyboardInterrupt:
        say("interrupted")
        status = 130
    finally:
        if left := [trace for trace in _traces(work.name) if trace not in before]:
            say("FAILED: still there: " + "; ".join(left))
            status = 1
        for path in work.iterdir():
            if status != 1 or path.name not in ("logs", *kept):
                shutil.rmtree(path)
        if status != 1:
            work.rmdir()
    say({0: "all well", 1: f"not well; logs and results are in {work}", 130: "all cleared away"}[status])
    return status


def _start_operator(script, work, limit_s):
    """Start the operator's machine with the test, and return 0 or 1 when that and all its processes have ended."""
    # In a session of its own: Ctrl-C is for this process.
    role = [sys.executable, script, OPERATOR, str(work), str(START)]
    environment = {**ENVIRONMENT, "HOME": str(work / "home")}
    machine = subprocess.Popen([*NAMESPACES, *role], env=environment, stdin=subprocess.PIPE, start_new_session=True)
    try:
        return 0 if machine.wait(limit_s) == 0 else 1
    except subprocess.TimeoutExpired:
        say(f"FAILED: not done within {limit_s} s")
        return 1
    finally:
        machine.stdin.close()
        try:
            machine.wait(20)  # it waits for the first process, and the kernel ends that one last
        except subprocess.TimeoutExpired:
            machine.kill()


def _traces(mark):
    """Processes and mounts that bear the mark, and the machines' addresses where they are this machine's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            if mark.encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found.append(f"process {process.name}")
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mark in line]
    addresses = call("ip", "-o", "addr", env=ENVIRONMENT)
    return found + [address for address in ADDRESS.values() if f" {address}/" in addresses]


def _operate(test, work):
    life = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # for the processes that it starts
    threading.Thread(target=lambda: (os.read(life, 1), os._exit(1)), daemon=True).start()
    try:
        test(work)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        say(f"FAILED: {error}")
        return 1
    return 0
