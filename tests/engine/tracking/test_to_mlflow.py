"""Runs in MLflow, on a server that stays, dies, comes back, or never answers."""

import signal
import socket
import subprocess
import time
from importlib.util import find_spec

import pytest
from mlflow_server import OPEN, Kept, serving
from toy import diamond, toy, twins
from tracked import check_tensorboard, events, run, sweep
from waiting import wait_for

from raysp.engine.tracking.interface import Ending, Refused, Run
from raysp.planning.plan import Plan

pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow isn't installed")


def test_mlflow_has_a_run_per_stage_and_found_stages_are_not_logged_again(tmp_path, console):
    kept = Kept()
    leaves = [*diamond(leaves=1, behaviour="raise"), *twins("x", "y", number=5), toy("long", number=6, behaviour="z" * 9000)]
    with serving(kept) as port:
        outcome = run(leaves, tmp_path / "run", console, f"mlflow:http://127.0.0.1:{port}")
        requests = kept.requests
        again = run(leaves[1:], tmp_path / "run", console, f"mlflow:http://127.0.0.1:{port}")
    assert not outcome.ok and again.ok
    assert kept.requests == requests
    assert list(kept.experiments) == ["raysp"]
    runs = kept.by_name()
    root, left, right = (next(s for s in Plan(leaves).stages.values() if s.name == name) for name in ("root", "left", "right"))
    assert len(runs) == 6, "all but the leaf, which never began"
    failed = runs[left.label]
    assert failed["info"]["status"] == "FAILED" and "told to fail" in failed["tags"]["raysp.error"]
    assert failed["tags"]["raysp.parent.root"] == root.label
    done = runs[right.label]
    assert done["info"]["status"] == "FINISHED" and done["params"] == {"number": "3", "epochs": "3", "behaviour": ""}
    assert [step for name, _, step in done["metrics"] if name == "loss"] == [1, 2, 3]
    assert ("final/macs", 1.0, 0) in done["metrics"]
    first, copy = (runs[twin.label] for twin in leaves[1:3])
    assert {first["tags"].get("raysp.same_as"), copy["tags"].get("raysp.same_as")} & {leaves[1].label, leaves[2].label}
    assert "note" not in console.file.getvalue()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_in_the_same_runs(tmp_path, monkeypatch):
    kept = Kept()
    stages = list(Plan(diamond(epochs=6)).stages.values())
    with serving(kept) as port:
        command = sweep("--inline", "--track", f"mlflow:http://127.0.0.1:{port}", "tensorboard:tb")
        monkeypatch.setenv("TOY_EPOCH_S", "0.5")
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: any(name == "loss" and step == 2 for each in kept.runs.values() for name, _, step in each["metrics"]))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        wait_for(lambda: all(each["info"]["status"] == "KILLED" for each in kept.by_name().values() if not finished(each)))
        begun = len(kept.runs)
        monkeypatch.setenv("TOY_EPOCH_S", "0")
        subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert 0 < begun < len(stages)
    assert len(kept.runs) == len(stages)
    for each in kept.runs.values():
        assert each["info"]["status"] == "FINISHED"
        assert [step for name, _, step in each["metrics"] if name == "loss"] == [1, 2, 3, 4, 5, 6]
    assert sum(each["tags"].get("raysp.continued") == "1" for each in kept.runs.values()) == 1
    assert all(events(tmp_path / "tb" / stage.label)[0]["loss"][-1][0] == 6 for stage in stages)


def finished(each):
    return each["info"]["status"] == "FINISHED"


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_lacks_nothing(tmp_path, monkeypatch):
    kept = Kept()
    monkeypatch.setenv("TOY_EPOCH_S", "0.3")
    with serving(kept) as port:
        command = sweep("--inline", "--track", f"mlflow:http://127.0.0.1:{port}")
        going = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: kept.requests > 5)
    time.sleep(1.0)
    with serving(kept, port):
        said, _ = going.communicate(timeout=60)
    assert said.count("note mlflow") == 1 and "training goes on" in said
    assert all(finished(each) for each in kept.runs.values()) and len(kept.runs) == 6


def test_a_dead_tracker_is_a_note(tmp_path, console, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens here
        monkeypatch.setattr("raysp.engine.tracking.feed.QUIET_S", 60.0)  # a busy machine takes long to import MLflow
        begun = time.monotonic()
        outcome = run(diamond(), tmp_path / "run", console, f"mlflow:http://127.0.0.1:{taken.getsockname()[1]}", "tensorboard:tb")
    assert outcome.ok
    assert time.monotonic() - begun < 90
    said = console.file.getvalue()
    assert said.count("training goes on") == 1 and "lacks the end of this sweep" in said
    check_tensorboard(tmp_path / "tb", tmp_path / "run", diamond())


def test_a_server_that_never_answers_costs_seconds_at_the_end(tmp_path, console, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        outcome = run(diamond(), tmp_path / "run", console, f"mlflow:http://127.0.0.1:{silent.getsockname()[1]}")
    assert outcome.ok
    assert time.monotonic() - begun < 90
    assert "lacks the end of this sweep" in console.file.getvalue()


def test_mlflow_counts_no_try_that_failed_halfway_as_a_sweep_that_went_on(tmp_path, monkeypatch):
    from raysp.engine.tracking.to_mlflow import Mlflow  # takes seconds to import

    kept = Kept()
    with serving(kept) as port:
        for times in (None, "1"):
            tracker, log_batch = Mlflow(f"http://127.0.0.1:{port}"), kept.runs_log_batch
            monkeypatch.setattr(kept, "runs_log_batch", lambda asked: (400, {"error_code": "INVALID_PARAMETER_VALUE"}))
            with pytest.raises(Refused):
                tracker.open(Run(**OPEN["run"], params={"a": 1}))
            monkeypatch.setattr(kept, "runs_log_batch", log_batch)
            tracker.open(Run(**OPEN["run"], params={"a": 1}))
            (only,) = kept.runs.values()
            assert only["tags"].get("raysp.continued") == times


def test_what_a_killed_sweep_leaves_behind_ends_no_run_of_the_one_that_went_on():
    from raysp.engine.tracking.to_mlflow import Mlflow  # takes seconds to import

    kept, told = Kept(), Run(**OPEN["run"])
    with serving(kept) as port:
        left, other = (Mlflow(f"http://127.0.0.1:{port}") for _ in range(2))
        left.open(told)
        other.open(told)
        left.close(told, Ending(status="interrupted"))
        (only,) = kept.runs.values()
        assert only["info"]["status"] == "RUNNING"
        other.close(told, Ending(status="interrupted"))
    assert only["info"]["status"] == "KILLED"
