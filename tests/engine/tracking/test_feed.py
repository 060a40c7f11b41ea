"""What trackers are told, and that no sweep ends otherwise for one that is down."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from rich.console import Console
from toy import HELPERS, toy
from tracked import check_tensorboard, run, sweep
from waiting import wait_for

from raysp.engine.tracking.feed import flat, numbers_of
from raysp.store.records import Store


def test_configurations_and_figures_become_flat():
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": (1, "x")}) == {"a.b": 1, "a.c.d": None, "e": '[1, "x"]'}
    assert numbers_of({"loss": 1, "val_by_exit": {"ac3": 2.0}, "on": True, "name": "x"}) == {"loss": 1.0, "val_by_exit/ac3": 2.0}


def test_keys_and_records_do_not_know_of_trackers(tmp_path, console):
    for name, track in (("with", ["tensorboard:tb"]), ("without", [])):
        assert run([toy()], tmp_path / name, console, *track).ok
    one, other = (Store(root=tmp_path / name).read(toy()) for name in ("with", "without"))
    for record in (one, other):
        for name in ("started", "finished", "time_s", "sha256"):
            record.pop(name, None)
    assert one == other


def test_a_tracker_that_hangs_is_left_behind(tmp_path, console, monkeypatch):
    monkeypatch.setattr("raysp.engine.tracking.feed.QUIET_S", 2.0)
    (tmp_path / "tensorboardX.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    begun = time.monotonic()
    outcome = run([toy()], tmp_path / "run", console, "tensorboard:tb")
    assert outcome.ok and time.monotonic() - begun < 60
    assert console.file.getvalue().count("lacks the end of this sweep") == 1
    assert console.file.getvalue().count("waiting for tensorboard:") == 1


def test_what_python_prints_as_it_begins_does_no_harm(tmp_path, console, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("print('hello')\nprint(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run([toy()], tmp_path / "run", console, "tensorboard:tb").ok
    assert "note" not in console.file.getvalue()
    check_tensorboard(tmp_path / "tb", tmp_path / "run", [toy()])


def test_a_tracker_whose_process_can_not_begin_is_a_note(tmp_path, console, monkeypatch):
    def refuse(*arguments, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("raysp.engine.tracking.feed.subprocess", SimpleNamespace(Popen=refuse, PIPE=-1, DEVNULL=-3))
    assert run([toy()], tmp_path / "run", console, "tensorboard:tb").ok
    assert console.file.getvalue().count("can't be started") == 1


def test_an_interrupted_sweep_does_not_wait_for_a_tracker_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "hangs").mkdir()
    (tmp_path / "hangs" / "tensorboardX.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hangs'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("TOY_EPOCH_S", "3")
    command = [sys.executable, str(HELPERS / "notice.py"), *sweep("--inline", "--track", "tensorboard:tb")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as going:
        wait_for(lambda: list(tmp_path.glob("run/stages/*/checkpoint*")))
        going.send_signal(signal.SIGINT)
        begun = time.monotonic()
        going.communicate(timeout=60)
    assert going.returncode == 130 and time.monotonic() - begun < 14


def test_a_console_that_is_closed_does_no_harm(tmp_path):
    assert run([toy()], tmp_path / "run", Console(quiet=True), "tensorboard:tb").ok
