import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pandas as pd
import pytest
from rich.console import Console
from toy import HELPERS, diamond, toy, with_helpers
from waiting import wait_for

from analysis.report import write_report
from raysp.engine import sweep
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.planning.plan import Plan
from raysp.store.lock import StoreBusy
from raysp.store.records import SCRATCH, NoLongerOwner, Store

INLINE = RunOptions(inline=True, gpus_per_stage=0)
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn


@pytest.fixture(autouse=True)
def _workers_find_the_toys(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", with_helpers())


def run(leaves, root, options, console=None):
    return run_sweep(leaves, root, [], options, labels={"preset": "toy"}, console=console or Console(quiet=True))


def snapshot(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("stages/**/*")) if path.is_file()}


def deterministic(root):
    write_report([root], root)
    return pd.read_csv(root / "results.csv").drop(columns="time_s").to_csv(index=False)


def test_a_rerun_is_a_no_op_and_says_found(either_way, tmp_path, console):
    leaves = diamond()
    outcome = run(leaves, tmp_path, either_way, console)
    assert outcome.ok
    assert len(outcome.done) == 6
    before = snapshot(tmp_path)
    assert len(before) == 12
    assert not (tmp_path / SCRATCH).exists()
    again = run(diamond(), tmp_path, either_way, console)
    assert again.ok
    assert not again.done
    assert snapshot(tmp_path) == before
    assert all(f"found    {stage.label}" in console.file.getvalue() for stage in Plan(leaves).stages.values())


def test_a_failure_skips_its_descendants_and_the_rest_finishes(either_way, tmp_path, console):
    leaves = [*diamond(behaviour="raise"), toy("other", number=4)]
    outcome = run(leaves, tmp_path, either_way, console)
    assert not outcome.ok
    (message,) = outcome.failed.values()
    left = next(stage for stage in Plan(leaves).stages.values() if stage.name == "left")
    assert f"{left.label} failed after epoch 1 of 3: RuntimeError: this stage was told to fail [/red] ü" in message
    assert "Traceback" in (Store(root=tmp_path).directory(left) / "error.txt").read_text()
    assert len(outcome.skipped) == 3
    assert len(outcome.done) == 3
    assert "told to fail [/red] ü" in console.file.getvalue()
    fixed = [*diamond(behaviour=""), toy("other", number=4)]
    assert len(run(fixed, tmp_path, INLINE).done) == 4  # left and its leaves are other stages now; root and right are shared


def test_a_nan_is_an_error_with_its_stage(tmp_path):
    outcome = run([toy(behaviour="nan")], tmp_path, INLINE)
    (message,) = outcome.failed.values()
    assert toy(behaviour="nan").label in message


@pytest.mark.parametrize("message", [r"C:\[/red] [bold", "\udcff", "x" * 10_000, ""])
def test_odd_error_messages_do_no_harm(tmp_path, console, message):
    stage = dataclasses.replace(toy(number=3), run=partial(_throw, message))
    outcome = run([stage, toy(number=4)], tmp_path, INLINE, console)
    assert list(outcome.failed) == [stage.key]
    assert len(outcome.done) == 1
    assert "ValueError" in (Store(root=tmp_path).directory(stage) / "error.txt").read_text()


def _throw(message, config, context):
    raise ValueError(message)


def test_a_stage_that_exits_has_failed(tmp_path):
    stage = dataclasses.replace(toy(), run=lambda config, context: sys.exit(0))
    assert "SystemExit" in run([stage], tmp_path, INLINE).failed[stage.key]


def test_things_in_the_way_are_set_aside(tmp_path, console):
    as_file, as_directory = toy(number=1), toy(number=2)
    store = Store(root=tmp_path)
    store.directory(as_file).parent.mkdir()
    store.directory(as_file).write_text("mine")
    (store.directory(as_directory) / "weights.safetensors").mkdir(parents=True)
    (tmp_path / "stages" / ".tmp-x").mkdir()
    assert run([as_file, as_directory], tmp_path, INLINE, console).ok
    assert (tmp_path / "stages" / f"{as_file.label}.damaged-1").read_text() == "mine"
    assert (store.directory(as_directory) / "weights.safetensors.damaged-1").is_dir()


def test_an_empty_sweep_and_a_busy_root_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no configuration"):
        run([], tmp_path, INLINE)
    with Store(root=tmp_path).lock(), pytest.raises(StoreBusy):
        run([toy()], tmp_path, INLINE)


def test_an_address_where_nobody_answers_is_refused_at_once(tmp_path):
    with pytest.raises(ConnectionError, match="no Ray cluster answers at 127"):
        run([toy()], tmp_path / "results", RunOptions(address="127.0.0.1:1"))
    assert not (tmp_path / "results").exists()


def test_a_run_that_lost_its_root_stops(tmp_path):
    def steal(config, context):
        (context.place.store.root / ".lock").write_text("process 1 on elsewhere, run 0")
        context.save_weights({})

    with pytest.raises(NoLongerOwner, match="driven by process 1 on elsewhere"):
        run([dataclasses.replace(toy(), run=steal), toy(number=1)], tmp_path, INLINE)


def test_a_damaged_stage_is_named_set_aside_and_run_again(tmp_path, console):
    leaves = diamond(leaves=1)
    run(leaves, tmp_path, INLINE)
    expected = deterministic(tmp_path)
    directory = Store(root=tmp_path).directory(leaves[0])
    os.truncate(directory / "weights.safetensors", 10)
    assert len(run(leaves, tmp_path, INLINE, console).done) == 1
    assert (directory / "weights.safetensors.damaged-1").stat().st_size == 10
    assert "weights.safetensors: its content is not what the record says" in console.file.getvalue().replace("\n", "")
    assert deterministic(tmp_path) == expected


def test_a_bad_checkpoint_is_set_aside(tmp_path, console):
    stage = toy()
    directory = Store(root=tmp_path).directory(stage)
    directory.mkdir(parents=True)
    (directory / "checkpoint.safetensors").write_bytes(b"half")
    assert run([stage], tmp_path, INLINE, console).ok
    assert (directory / "checkpoint.safetensors.damaged-1").read_bytes() == b"half"


@pytest.mark.slow
def test_ray_and_inline_agree_and_a_dead_worker_is_replaced(on_ray, tmp_path, console):
    leaves = diamond(behaviour="die once")
    (tmp_path / "inline").mkdir()
    (tmp_path / "inline" / "died").touch()
    assert run(leaves, tmp_path / "inline", INLINE).ok
    assert run(leaves, tmp_path / "ray", on_ray, console).ok
    said = console.file.getvalue()
    assert said.count("lost     ") == 1 and " goes on from its checkpoint in 1 s: " in said
    assert (tmp_path / "ray" / "died").exists()
    assert deterministic(tmp_path / "ray") == deterministic(tmp_path / "inline")


@pytest.mark.parametrize("how", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_kill_9_in_mid_sweep_then_the_same_command_ends_bit_identical(how, tmp_path):
    """Kills a real driver at random moments until it gets through, as an unlucky user would."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    log = tmp_path / "log"
    run(diamond(epochs=6), undisturbed, INLINE)
    environment = {**os.environ, "TOY_EPOCH_S": "0.15", "TOY_LOG": str(log)}
    command = [sys.executable, str(HELPERS / "toy_sweep.py"), str(killed), how]
    chance = random.Random(4)
    stages = Plan(diamond(epochs=6)).stages.values()
    kills = 0
    while kills < (4 if how == "inline" else 1):  # each start of Ray takes seconds
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        epochs = len(log.read_text().splitlines()) if log.exists() else 0
        deadline = time.monotonic() + 90
        target = epochs + chance.randint(2, 6)
        while driver.poll() is None and len(log.read_text().splitlines() if log.exists() else ()) < target:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if driver.poll() is not None:
            assert driver.returncode == 0
            break
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kills += 1
    assert kills
    last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert last.returncode == 0, last.stderr
    assert deterministic(killed) == deterministic(undisturbed)
    trained = log.read_text().splitlines()
    assert len(set(trained)) == 6 * len(stages)
    # Each kill may cost the epoch that was running, and under Ray another one in each slot; not more.
    assert len(trained) <= 6 * len(stages) + 2 * kills


@pytest.mark.slow
def test_ctrl_c_ends_quickly_and_leaves_no_process(tmp_path):
    log = tmp_path / "log"
    environment = {**os.environ, "TOY_EPOCH_S": "0.5", "TOY_LOG": str(log)}
    toys = [sys.executable, str(HELPERS / "toy_sweep.py"), str(tmp_path / "results"), "ray"]
    command, devnull = [sys.executable, str(HELPERS / "notice.py"), *toys], subprocess.DEVNULL
    driver = subprocess.Popen(command, env=environment, stdout=devnull, stderr=devnull)
    wait_for(log.exists, 90, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=30) != 0
    epochs = log.read_text()
    time.sleep(1.5)
    assert log.read_text() == epochs, "a worker still trains"


def test_code_installed_inside_anothers_checkout_has_no_commit(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "theirs.py").write_text("")
    git("add", ".")
    git("commit", "-qm", "theirs")
    (tmp_path / "raysp").mkdir()
    (tmp_path / "raysp" / "sweep.py").write_text("")
    monkeypatch.setattr(sweep, "__file__", str(tmp_path / "raysp" / "sweep.py"))
    assert sweep.git_state() == {}
    git("add", ".")
    git("commit", "-qm", "now it is a part of it")
    (tmp_path / "picture.png").write_text("")  # nobody's code
    assert sweep.git_state()["dirty"] is False
    (tmp_path / "theirs.py").write_text("1")
    assert sweep.git_state()["dirty"] is True


def test_a_root_whose_name_is_no_text_is_refused_for_ray_alone(tmp_path):
    root = tmp_path / os.fsdecode(b"n\xff")
    with pytest.raises(ValueError, match="its name is no text in UTF-8, which Ray needs; rename it, or give --inline"):
        run_sweep(diamond(), root, [], RunOptions(address="local"), labels={}, console=Console(quiet=True))
    assert run_sweep(diamond(), root, [], RunOptions(inline=True), labels={}, console=Console(quiet=True)).ok


def test_ray_without_docstrings_is_refused_and_told_by_the_doctor(tmp_path):
    command = [sys.executable, str(HELPERS / "toy_cli.py"), "--storage", str(tmp_path / "run")]
    environ = os.environ | {"PYTHONOPTIMIZE": "2", "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120)
    said = "Ray can't be imported where Python takes docstrings away (PYTHONOPTIMIZE=2, python -OO); unset that, or give --inline"
    assert done.returncode == 2 and " ".join(done.stderr.split()).endswith(f"error: {said}")
    doctor = [sys.executable, "-m", "raysp", "doctor"]
    assert said in subprocess.run(doctor, capture_output=True, text=True, env=environ, timeout=60, check=True).stdout
