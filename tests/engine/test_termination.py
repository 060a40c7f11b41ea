"""What SIGTERM does: nothing trains here, something trains in this thread, something trains in another."""

import os
import signal
import threading
import time
from contextlib import suppress

import pytest

from raysp.engine import termination
from raysp.engine.termination import Terminated, install, noticed


@pytest.fixture
def handled():
    """A function that handles SIGTERM for the length of a test, over another handler if it is given one."""
    original = signal.getsignal(signal.SIGTERM)
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    undo = []

    def handle(before=original, **options):
        signal.signal(signal.SIGTERM, before)
        undo.append((install(**options), before))

    yield handle
    for restore, before in undo:
        restore()
        assert signal.getsignal(signal.SIGTERM) == before
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    signal.signal(signal.SIGINT, outside)
    signal.signal(signal.SIGTERM, original)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # the handler runs before the next line


def test_where_nothing_trains_it_raises_at_once(handled):
    handled()
    with pytest.raises(Terminated):
        terminate()
    assert issubclass(Terminated, KeyboardInterrupt), "nothing that catches exceptions may swallow it"


def test_a_closed_terminal_counts_as_the_same_unless_it_is_ignored(handled):
    original = signal.getsignal(signal.SIGHUP)
    try:
        for before in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGHUP, before)
            handled()
            if before == signal.SIG_IGN:  # as under nohup
                assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
                continue
            with noticed() as notice:
                os.kill(os.getpid(), signal.SIGHUP)
                assert notice.given
                notice.given = False
    finally:
        signal.signal(signal.SIGHUP, original)


def test_an_interrupt_that_python_swallowed_is_not_forgotten(handled):
    handled()
    termination.check()
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt):
        termination.check()
    handled()
    termination.check()


def test_a_training_in_the_main_thread_is_told_and_not_torn(handled):
    handled()
    with noticed() as notice:
        assert not notice.given
        notice.safe.clear()
        began = time.monotonic()
        terminate()
        assert notice.given and time.monotonic() - began < 5, "waited for itself"
        with pytest.raises(Terminated):
            terminate()  # a second one
        notice.given = False  # as if it had never come
    with pytest.raises(Terminated):
        terminate()  # after the training


def test_a_notice_after_the_last_look_raises_when_the_training_ends(handled):
    handled()
    with pytest.raises(Terminated), noticed():
        terminate()
    handled()  # anew: this process was told to end
    with noticed():
        pass


def test_an_error_of_the_training_is_not_hidden_by_a_notice(handled):
    handled()

    def fail():
        with noticed():
            terminate()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(Terminated), noticed():
        pytest.fail("another training began")
    with pytest.raises(Terminated):
        termination.check()
    assert termination.told()


class _Elsewhere(threading.Thread):
    """Trains in steps of a tenth of a second; saves when told."""

    def __init__(self, saves=True):
        super().__init__(daemon=True)
        self.saves, self.saved, self.ready, self.done = saves, False, threading.Event(), threading.Event()

    def run(self):
        try:
            with noticed() as notice:
                notice.safe.clear()
                self.ready.set()
                while not self.done.is_set():
                    time.sleep(0.1)
                    if notice.given and self.saves:
                        time.sleep(0.2)
                        self.saved = True
                        notice.safe.set()
                        raise Terminated
        except Terminated:
            self.done.set()


@pytest.mark.parametrize("hand_on", [True, False])
def test_a_training_in_another_thread_saves_before_the_process_is_ended(handled, hand_on):
    heard = []
    handled(lambda number, frame: heard.append((number, thread.saved)), hand_on=hand_on)
    thread = _Elsewhere()
    thread.start()
    assert thread.ready.wait(5)
    if hand_on:
        terminate()
        assert heard == [(signal.SIGTERM, True)]
    else:
        with pytest.raises(Terminated):
            terminate()
        assert thread.saved and not heard
    thread.join(5)
    assert termination._running is None


def test_a_training_in_another_thread_that_has_nothing_to_lose_is_not_waited_for(handled):
    heard = []
    handled(lambda number, frame: heard.append(number), hand_on=True, grace_s=10)
    with noticed() as notice:
        notice.thread = threading.Thread()
        began = time.monotonic()
        terminate()
        assert heard == [signal.SIGTERM] and time.monotonic() - began < 5
        notice.given = False


def test_a_training_that_does_not_save_is_waited_for_no_longer_than_the_grace(handled):
    handled(grace_s=0.3)
    thread = _Elsewhere(saves=False)
    thread.start()
    assert thread.ready.wait(5)
    began = time.monotonic()
    with pytest.raises(Terminated):
        terminate()
    assert 0.25 < time.monotonic() - began < 5
    thread.done.set()
    thread.join(5)


def test_a_training_that_ends_by_itself_is_not_waited_for_any_longer(handled):
    handled(grace_s=10)
    thread = _Elsewhere(saves=False)
    thread.start()
    assert thread.ready.wait(5)
    threading.Timer(0.3, thread.done.set).start()
    began = time.monotonic()
    with pytest.raises(Terminated):
        terminate()
    assert time.monotonic() - began < 5
    thread.join(5)


def test_a_second_signal_cuts_the_wait_short(handled):
    handled(grace_s=60)
    thread = _Elsewhere(saves=False)
    thread.start()
    assert thread.ready.wait(5)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(Terminated):
        terminate()
    assert time.monotonic() - began < 10
    thread.done.set()
    thread.join(5)


def test_only_the_main_thread_can_handle_signals():
    errors = []

    def attempt():
        try:
            install()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert errors
