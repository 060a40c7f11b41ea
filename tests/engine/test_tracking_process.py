"""A tracker's own process: what it sends, what it sends again, and what it leaves out."""

import json
import queue

from mlflow_server import OPEN

from raysp.engine.tracking.interface import Refused
from raysp.engine.tracking.process import Sender

LABELS = {"preset": "toy"}


class Fake:
    """A tracker that fails as it is told, and keeps what it takes."""

    def __init__(self, *failures):
        self.failures, self.taken = list(failures), []

    def _take(self, what):
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        self.taken.append(what)

    def open(self, run):
        self._take("open")
        return 1

    def epoch(self, run, epoch, figures):
        self._take(epoch)

    def close(self, run, ending):
        self._take(ending.status)


def send(fake, *lines):
    told, waiting = [], queue.SimpleQueue()
    for line in (*lines, None):
        waiting.put(line)
    Sender(lambda: fake, told.append).run(waiting)
    return told


CLOSE = {"do": "close", "id": "1", "ending": {"status": "done"}}
EPOCHS = [{"do": "epoch", "id": "1", "epoch": epoch, "figures": {}} for epoch in (1, 2, 3)]


def test_epochs_that_a_run_holds_are_not_sent_again():
    fake = Fake()
    assert send(fake, OPEN, *EPOCHS, CLOSE)[-1] == {"left": 0, "ended": True}
    assert fake.taken == ["open", 2, 3, "done"]


def test_what_is_open_in_the_end_was_interrupted():
    fake = Fake()
    send(fake, OPEN, EPOCHS[1])
    assert fake.taken == ["open", 2, "interrupted"]


def test_what_is_refused_is_left_out_and_what_can_not_be_sent_is_sent_again():
    fake = Fake(None, Refused("no"))
    assert [each for each in send(fake, OPEN, *EPOCHS, CLOSE) if "trouble" in each] == [{"trouble": "no", "refused": True}]
    assert fake.taken == ["open", 3, "done"]
    fake = Fake(None, OSError("away"))
    send(fake, OPEN, *EPOCHS, CLOSE)
    assert fake.taken == ["open", 2, 3, "done"]


def test_a_secret_of_the_environment_is_not_told(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter22")
    told = send(Fake(OSError("http://me:pw@host: hunter22 is no key")), OPEN)
    assert "hunter22" not in json.dumps(told) and "pw" not in json.dumps(told)
