"""Who may write to a results root: one run at a time.

Owns the lock file and what keeps it alive. Refuses to know what it protects. Contract: at most one run holds a root, and a dead
holder's lock is taken over; a run that has lost the root without noticing is found out by the lock file's content, which ends
with the holder's run id. No clock is compared with another machine's, nor with itself before a change of time.

In a directory the lock is the kernel's (flock), and ends with the process. Where there is none (object stores, file systems
without locks) it is a lease: a file that its holder rewrites every few seconds. Whoever wants the root watches the file; a holder
that doesn't rewrite it for a while is dead.

A lease is only ever taken by a claim: a file that can be made once, whose name says after whom. What the lock file says, and the
claims on it, are a line, at whose end one more may stand. Of several that saw the same line one makes the claim; that one looks
whether the line is still what it saw, and writes its name into the lock file. It needs no links, no locks, and no deleting, but
a file that can be made once (O_EXCL; a put on condition).
"""

import errno
import fcntl
import hashlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from raysp.store.location import Location, create, read, remove, write_atomically

LOCK = ".lock"
RENEW_S = 5.0
"""Seconds between two renewals of a lease."""
DEAD_AFTER_S = 30.0
"""A lease that isn't renewed for this many seconds is a dead holder's."""
ENDED = ", which has ended"
"""Behind a holder's name, where its lease could not be removed."""
UNTOLD = "/?"
"""In the place of a process' start, where the system doesn't say it."""
RENEWED = re.compile(r"^renewed \d+ times by ")

Tell = Callable[[str], None]


class StoreBusy(Exception):
    """Another process drives a sweep in this results root."""


def holder(root: Location) -> str:
    """What the lock file says about who holds, or held, the root; empty where there is none."""
    return (read(root / LOCK) or b"").decode(errors="replace")


@contextmanager
def hold(root: Location, tell: Tell = lambda message: None) -> Iterator[str]:
    """Hold a results root for the length of the block; yields the run's id.

    Args:
        root: it must exist, if it is a directory.
        tell: told, once, when finding out whether a holder lives takes a while.

    Raises:
        StoreBusy: another live process holds it; the message says which.
        OSError: the lock can't be written.
    """
    run_id = uuid.uuid4().hex
    if isinstance(root, Path):
        # The name may lead nowhere else: the file is emptied.
        with os.fdopen(os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+") as file:
            if _flock(file, root, fcntl.LOCK_EX) and excludes(root / LOCK):
                file.truncate(0)
                file.write(_describe(run_id))
                file.flush()
                os.fsync(file.fileno())  # other nodes look for it before this one's cache is written back
                yield run_id
                return
    with _lease(root, run_id, tell):
        yield run_id


def check_free(root: Location) -> None:
    """Raise StoreBusy if a live process is known to hold the root now; writes nothing, takes nothing, and doesn't wait."""
    if isinstance(root, Path):
        # A pipe by that name would be waited for.
        with suppress(FileNotFoundError, NotADirectoryError), open(root / LOCK, opener=_open_at_once) as file:
            _flock(file, root, fcntl.LOCK_SH)  # for an exclusive one NFS wants the file opened for writing


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _flock(file: IO[str], root: Path, how: int) -> bool:
    """Take the kernel's lock; False where the file system has none. Raises StoreBusy."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise _busy(root, holder(root)) from None
    return True


def excludes(path: Path) -> bool:
    """Whether the kernel's lock on a file, which must be held, keeps others out: some file systems grant it to whoever asks."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def _lease(root: Location, run_id: str, tell: Tell) -> Iterator[None]:
    mine = _describe(run_id)
    while not _succeed(root, mine, _wait_for_end(root, tell)):
        pass
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(root, mine, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(Exception):  # the next run waits a little longer
            if holder(root).endswith(run_id):
                _give_back(root, mine)


def _succeed(root: Location, mine: str, line: list[str]) -> bool:
    """Take the root after the last of a line; whether that was done. It wasn't if another was quicker."""
    claims = [_claim(root, line[: n + 1]) for n in range(len(line))]
    if not create(claims[-1], mine.encode()):
        return False
    over = claims[-1:]
    try:
        # Whoever saw this line long ago can make its claim once more: by then the lock file names another.
        if _line(root) != [*line, mine]:
            return False
        write_atomically(root / LOCK, mine.encode())
        over = claims
        return True
    finally:
        for claim in over:
            with suppress(OSError):  # it means nothing any more
                remove(claim)


def _line(root: Location) -> list[str]:
    """What the lock file says (nothing, where there is none), and what they have said who claimed the root after it, in order."""
    line = [holder(root)]
    while (claim := read(_claim(root, line))) is not None:
        line.append(claim.decode(errors="replace"))
    return line


def _claim(root: Location, line: list[str]) -> Location:
    """Where the claim lies that comes after a line."""
    who = "\n".join(RENEWED.sub("", said) for said in line)  # renewals change what is said, but not who says it
    return root / f"{LOCK}-after-{hashlib.sha256(who.encode()).hexdigest()[:16]}"


def _give_back(root: Location, mine: str) -> None:
    try:
        remove(root / LOCK)
    except OSError:  # these credentials may write, but not delete
        write_atomically(root / LOCK, f"{mine}{ENDED}".encode())


def _renew(root: Location, mine: str, ended: threading.Event) -> None:
    renewals = 0
    while not ended.wait(RENEW_S):
        renewals += 1
        with suppress(Exception):  # the network may come back; until then nothing can be written anyway
            if not holder(root).endswith(mine):
                return  # taken over: whoever writes next for this run is refused
            write_atomically(root / LOCK, f"renewed {renewals} times by {mine}".encode())


def _wait_for_end(root: Location, tell: Tell) -> list[str]:
    """Return the line (`_line`) once its last is dead, or has ended. Raises StoreBusy as soon as it shows a sign of life."""
    line = _line(root)
    if _is_over(line):
        return line
    tell(f"{root} is held by {_for_people(line[-1])}; looking for up to {DEAD_AFTER_S:.0f} s whether that is alive")
    begun = time.monotonic()
    while time.monotonic() - begun < DEAD_AFTER_S:
        time.sleep(RENEW_S / 5)
        now = _line(root)
        if _is_over(now):
            return now
        if now != line:
            raise _busy(root, now[-1])
    return line


def _is_over(line: list[str]) -> bool:
    """Whether a line's last is known not to hold the root. A claim that says nothing yet is being written."""
    return line == [""] or line[-1].endswith(ENDED) or _is_dead_here(line[-1])


def _busy(root: Location, by: str) -> StoreBusy:
    return StoreBusy(f"{root} is in use by {_for_people(by) or 'another process'}; wait for it or end it")


def _for_people(description: str) -> str:
    plain = "".join(letter for letter in description if letter.isprintable())  # whoever writes there also writes to this terminal
    return re.sub(r" \(start \S+\)", "", RENEWED.sub("", plain))[:300]


def _describe(run_id: str) -> str:
    return f"process {os.getpid()} (start {_start(os.getpid())}) on {socket.gethostname()}, run {run_id}"


def _is_dead_here(description: str) -> bool:
    """Whether a holder was a process of this machine that has ended. Another machine may have this one's name, and a container
    its own numbers of processes: only what has seen this boot, in this namespace, can be told.
    """
    match = re.search(r"process (\d+) \(start (\S+)/\d+\) on (\S+), run \w+$", description)
    if not match or match[3] != socket.gethostname() or match[2] != _here():
        return False
    start = _start(int(match[1]))
    return not start.endswith(UNTOLD) and f"(start {start})" not in description


def _here() -> str:
    """This boot of this machine, and this namespace of process numbers; "?" where the system doesn't say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        return f"{boot}/{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"
    except OSError:
        return "?"


def _start(pid: int) -> str:
    """What tells a process from all others that ever were: where it is, and when it started (0 if it has ended, UNTOLD if it is
    there, or may be, and the system doesn't say when it started).
    """
    try:
        # The name in brackets may hold blanks; the start time is the twentieth field behind it, the first is the state.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended, or is another user's, and /proc is mounted with hidepid=2
        return f"{_here()}/0" if _is_nobodys(pid) else f"{_here()}{UNTOLD}"
    return f"{_here()}/{0 if fields[0] in 'ZX' else fields[19]}"


def _is_nobodys(pid: int) -> bool:
    """Whether there is no process of that number, also where other users' are hidden."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # there is one, which is another user's
        pass
    return False
