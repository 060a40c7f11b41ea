"""SIGTERM, as a machine sends it that is about to be taken back: what was trained is saved at once, then the process ends.
SIGHUP, as a closed terminal sends it to what runs there, counts as the same.

Owns the signals' handlers and what they tell a running training. Refuses to save anything itself (`raysp.training.loop`).
Contract: a training is never torn out of a step by the first SIGTERM; a second one acts at once. SIGINT (Ctrl-C) acts at once,
and is not forgotten where the interpreter swallows what a handler raises.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_S = 20.0


class Terminated(KeyboardInterrupt):
    """The process was told to end by SIGTERM. No stage has failed; the same command goes on from its checkpoint."""


class Notice:
    """What a training and the signal's handler know of each other. The training's thread makes it."""

    def __init__(self) -> None:
        self.given = False
        """Whether SIGTERM has come: save, and raise Terminated."""
        self.safe = threading.Event()
        """Set while nothing would be lost: all that was trained is in a checkpoint."""
        self.safe.set()
        self.thread = threading.current_thread()


_running: Notice | None = None
_told = False
_interrupted = False


@contextmanager
def noticed() -> Iterator[Notice]:
    """For the length of the block, SIGTERM leaves a notice instead of raising; the block must look at it after every step.

    Raises:
        Terminated: at the end of the block, if the notice came after the last look; or at its beginning, if the process was told
            to end before.
    """
    global _running
    check()
    notice = _running = Notice()
    try:
        yield notice
    finally:
        _running = None  # before the look below: a signal in between raises by itself
        notice.safe.set()
    if notice.given:
        raise Terminated


def told() -> bool:
    """Whether SIGTERM has come to this process since `install`."""
    return _told


def check() -> None:
    """Raise Terminated, or KeyboardInterrupt after SIGINT, if this process was told to end and hasn't, because an error of the
    stage came first, or because the signal met code in which Python ignores exceptions.
    """
    if _told:
        raise Terminated
    if _interrupted:
        raise KeyboardInterrupt


def install(*, grace_s: float = GRACE_S, hand_on: bool = False) -> Callable[[], None]:
    """Handle SIGTERM in this process; in a driver SIGINT too, and SIGHUP where it would end it. Call it once, in the main thread.

    While no stage trains here, the signal acts at once. While one trains in the main thread, that ends by itself, at its next
    step. While one trains in another thread, the handler waits until it has saved, then acts.

    Args:
        grace_s: seconds that the handler waits for another thread, at most.
        hand_on: act by calling the handler that was there before, if there was one, e.g. Ray's, which ends a worker's process;
            else by raising Terminated in the main thread.

    Returns:
        A function that puts the handler back which was there before.

    Raises:
        ValueError: this is not the main thread.
    """
    global _told, _interrupted
    _told = _interrupted = False
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if not hand_on:
        usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}  # else ignored, as under nohup
        before |= {number: old for number, old in usual.items() if signal.getsignal(number) == old}

    def handle(number: int, frame: FrameType | None) -> None:
        global _told, _interrupted
        if number == signal.SIGINT:
            _interrupted = True
            raise KeyboardInterrupt
        _told = True
        notice = _running
        if notice is not None and not notice.given:
            notice.given = True
            if notice.thread is threading.current_thread():
                return
            notice.safe.wait(grace_s)
        old = before[signal.Signals(number)]
        if hand_on and callable(old):
            old(number, frame)
        else:
            raise Terminated

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    for number in before:
        signal.signal(number, handle)
    return restore
