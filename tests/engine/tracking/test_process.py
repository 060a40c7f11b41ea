"""A tracker's own process: what it sends, what it sends again, and what it leaves out."""

import json
import os
import queue
import signal
import subprocess
import sys

from mlflow_server import OPEN
from waiting import wait_for

from raysp.engine.tracking.interface import Refused
from raysp.engine.tracking.process import Sender


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


def test_a_tracker_that_is_told_to_end_rolls_back(tmp_path):
    (tmp_path / "tensorboardX.py").write_text(
        "import time\ntry:\n    open('begun', 'w').close()\n    time.sleep(60)\nfinally:\n    open('back', 'w').close()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-P", "-m", "raysp.engine.tracking.process", "tensorboard"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as going:
        going.stdin.write(f'"tb"\n{json.dumps(OPEN)}\n')
        going.stdin.flush()
        wait_for((tmp_path / "begun").exists)
        going.send_signal(signal.SIGTERM)
        assert going.wait(30) == 1
    assert (tmp_path / "back").exists()


def test_a_tracker_that_hangs_does_not_outlive_its_sweep_for_long(tmp_path):
    (tmp_path / "hangs").mkdir()
    (tmp_path / "hangs" / "tensorboardX.py").write_text("import time\ntime.sleep(600)\n")
    program = "from raysp.engine.tracking import process; process.END_S = 0.5; process.main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hangs"), *sys.path])}
    command = [sys.executable, "-P", "-c", program, "tensorboard"]
    ended = subprocess.run(
        command, env=environment, input=f'"tb"\n{json.dumps(OPEN)}\n', text=True, capture_output=True, timeout=30
    )
    assert ended.returncode == 1
