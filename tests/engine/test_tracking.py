"""Trackers: what they are told, and that no sweep ends otherwise for one that is down."""

import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
from mlflow_server import OPEN, Kept, serving
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from toy import HELPERS, diamond, toy, twins

from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.engine.tracking.feed import flat, numbers_of
from raysp.engine.tracking.interface import Ending, Refused, Run
from raysp.planning.plan import Plan
from raysp.store.records import Store

LABELS = {"preset": "toy"}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run(leaves, root, console, *track, **options):
    options = {"inline": True, **options}
    return run_sweep(leaves, root, [], RunOptions(track=track, **options), labels=LABELS, console=console)


def sweep(*arguments):
    return [sys.executable, str(HELPERS / "toy_cli.py"), "--storage", "run", *arguments]


def events(directory):
    """Scalars by name and step, and texts, of TensorBoard's files in a directory, in the order of the files."""
    scalars, texts = {}, {}
    for path in sorted(directory.glob("events*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif value.tensor.string_val:
                    texts[value.tag] = value.tensor.string_val[0].decode()
    return scalars, texts


@pytest.mark.parametrize(
    ("track", "said"),
    [
        ("neptune:x", "expected mlflow:URI, wandb:PROJECT or tensorboard:DIR"),
        ("mlflow", "expected mlflow:URI"),
        ("tensorboard:", "expected mlflow:URI"),
        ("tensorboard:s3://bucket/x", "a directory of this machine"),
        ("tensorboard:file/below", "file is not a directory"),
        ("mlflow:localhost:5000", "http://HOST:PORT"),
        ("mlflow:http://", "names no host"),
        ("mlflow:http://host:port", "names no host"),
        ("mlflow:http://me:hunter2@host", "MLFLOW_TRACKING_PASSWORD"),
        ("mlflow:http://host/?token=hunter2", "MLFLOW_TRACKING_TOKEN"),
        ("mlflow:postgresql://me:hunter2@host/db", "PGPASSWORD"),
        ("mlflow:postgresql://host/db?user=me&password=hunter2", "PGPASSWORD"),
        ("mlflow:postgresql:///db?password=hunter2", "PGPASSWORD"),
        ("mlflow:mysql+pymysql://me:1/2hunter2@host/db", "PGPASSWORD"),
        ("mlflow:sqlite:mlflow.db", "names no file; expected mlflow:sqlite:///FILE"),
        ("mlflow:sqlite://", "names no file"),
        ("mlflow:sqlite:///", "names no file"),
        ("mlflow:sqlite://host/x.db", "names no file"),
        ("mlflow:sqlite:///file/x.db", "file is not a directory"),
        ("mlflow:redis://host?hunter2", "records would keep"),
        ("mlflow:host:80?token=hunter2", "records would keep"),
        ("neptune:http://host#hunter2", "expected mlflow:URI"),
        ("wandb:a project", "wandb:PROJECT or wandb:ENTITY/PROJECT"),
        ("wandb:/project", "wandb:PROJECT or wandb:ENTITY/PROJECT"),
    ],
)
def test_what_is_no_tracker_is_refused_with_what_to_do(tmp_path, track, said):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="track is ") as refused:
        RunOptions(track=(track,))
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_wandb_without_a_key_is_refused(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="the extra wandb isn't installed")
    with pytest.raises(ValueError, match="WANDB_API_KEY"):
        RunOptions(track=("wandb:p",))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 123\n")
    assert RunOptions(track=("wandb:p",)).trackers
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert RunOptions(track=("wandb:p", "wandb:p")).trackers == RunOptions(track=("wandb:p",)).trackers


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("machin api.wandb.ai login user password hunter2", "line 1 of {path} is not of a netrc file's form"),
        ("machine other login user\npassword hunter2 hunter2 hunter2\n", "line 2 of {path} is not of a netrc file's form"),
        (b"\xff\xfe\x00", "{path} is no text"),
        (None, "NETRC names {path}, which isn't there"),
        ("directory", "{path} can't be read: Is a directory"),
        ("machine api.wandb.ai login user password", "W&B has no key here;"),
    ],
)
def test_a_bad_netrc_file_is_told(monkeypatch, tmp_path, content, said):
    pytest.importorskip("wandb", reason="the extra wandb isn't installed")
    path = tmp_path / "my netrc"
    monkeypatch.setenv("NETRC", str(path))
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="W&B has no key here") as refused:
        RunOptions(track=("wandb:p",))
    assert said.format(path=path) in str(refused.value) and "hunter2" not in str(refused.value)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert RunOptions(track=("wandb:p",)).trackers, "what is not needed is not looked at"


@pytest.mark.parametrize(
    "server", ["wandb.example", "https://", "http://[::1", "ftp://host", "https://host:port", "http://me:hunter2@"]
)
def test_an_address_of_wandb_that_is_none_is_refused(monkeypatch, server):
    pytest.importorskip("wandb", reason="the extra wandb isn't installed")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server)
    with pytest.raises(ValueError, match=r"WANDB_BASE_URL is .*; expected a URL such as https://api") as refused:
        RunOptions(track=("wandb:p",))
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert RunOptions(track=("wandb:p",)).trackers


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("text", "is no SQLite database"),
        ("another's", "is another program's database (with bookmarks, visits)"),
        ("directory", "is no plain file"),
        ("damaged", "is damaged"),
        ("MLflow's", None),
        ("empty", None),
        ("a database without tables", None),
        ("being written to", None),
        ("another's, locked", "is another program's database (with bookmarks, visits)"),
    ],
)
def test_a_file_that_is_not_mlflow_s_is_refused_and_left_as_it_is(monkeypatch, tmp_path, how, said):
    monkeypatch.setattr("raysp.engine.tracking.wanted._need", lambda *given: None)
    monkeypatch.setattr("raysp.engine.tracking.wanted.LOCKED_S", 0.05)
    path = tmp_path / "a b#.db"
    database = sqlite3.connect(path)
    tables = dict.fromkeys(("another's", "another's, locked"), ("bookmarks", "visits")) | {"damaged": ("x",)}
    tables |= dict.fromkeys(("MLflow's", "being written to"), ("experiments", "runs", "tags"))
    for table in tables.get(how, ()):
        database.execute(f"CREATE TABLE {table} (x)")
    if how == "a database without tables":
        database.execute("VACUUM")
    database.commit()
    if how in ("being written to", "another's, locked"):
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
    else:
        database.close()
    if how == "text":
        path.write_text("notes\n" * 100)
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)
    elif how == "directory":
        path.unlink()
        path.mkdir()
    before = path.read_bytes() if path.is_file() else b""
    if said is None:
        assert RunOptions(track=(f"mlflow:sqlite:///{path}",)).trackers[0].place == f"sqlite:///{path}"
    else:
        with pytest.raises(ValueError, match="track is ") as refused:
            RunOptions(track=(f"mlflow:sqlite:///{path}",))
        assert f"{path} {said}" in str(refused.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    database.close()


@pytest.mark.parametrize(("package", "track"), [("mlflow", "mlflow:http://127.0.0.1:1"), ("wandb", "wandb:p")])
def test_a_missing_package_ends_a_sweep_before_it_begins(tmp_path, package, track):
    command = [sys.executable, str(HELPERS / "without.py"), package, *sweep("--inline", "--track", track)[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"pip install -e '.[{package}]'" in ended.stderr.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_configurations_and_figures_become_flat():
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": (1, "x")}) == {"a.b": 1, "a.c.d": None, "e": '[1, "x"]'}
    assert numbers_of({"loss": 1, "val_by_exit": {"ac3": 2.0}, "on": True, "name": "x"}) == {"loss": 1.0, "val_by_exit/ac3": 2.0}


def check_tensorboard(directory, root, leaves):
    stages = Plan(leaves).stages.values()
    assert {path.name for path in directory.iterdir()} == {stage.label for stage in stages}
    for stage in stages:
        scalars, texts = events(directory / stage.label)
        record = Store(root=root).read(stage)
        assert [step for step, _ in scalars["loss"]] == [1, 2, 3]
        assert [loss for _, loss in scalars["loss"]] == pytest.approx([epoch["loss"] for epoch in record["history"]])
        assert scalars["final/relus"][0][1] == record["rows"][0]["relus"]
        assert f"| number | {stage.config.number} |" in texts["config/text_summary"]
        assert str(Store(root=root).directory(stage) / "record.json") in texts["raysp/text_summary"]
        for role, parent in stage.parents.items():
            assert f"| raysp.parent.{role} | {parent.label} |" in texts["raysp/text_summary"]
        assert not any(name in scalars for name in ("pid", "timestamp", "training_iteration"))


def test_tensorboard_has_a_run_per_stage(tmp_path, console):
    assert run(diamond(), tmp_path / "run", console, "tensorboard:tb").ok
    check_tensorboard(tmp_path / "tb", tmp_path / "run", diamond())
    assert "note" not in console.file.getvalue()


@pytest.mark.slow
def test_trackers_are_told_the_same_on_ray(tmp_path, console, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{HELPERS}:{os.environ.get('PYTHONPATH', '')}")  # of Ray's workers
    ray = {"inline": False, "address": "local", "gpus_per_stage": 0, "max_concurrent": 2}
    assert run(diamond(), tmp_path / "run", console, "tensorboard:tb", **ray).ok
    check_tensorboard(tmp_path / "tb", tmp_path / "run", diamond())


def test_keys_and_records_do_not_know_of_trackers(tmp_path, console):
    for name, track in (("with", ["tensorboard:tb"]), ("without", [])):
        assert run([toy()], tmp_path / name, console, *track).ok
    one, other = (Store(root=tmp_path / name).read(toy()) for name in ("with", "without"))
    for record in (one, other):
        for name in ("started", "finished", "time_s", "sha256"):
            record.pop(name, None)
    assert one == other


def test_mlflow_has_a_run_per_stage_and_found_stages_are_not_logged_again(tmp_path, console):
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
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
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
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


def wait_for(what, timeout_s=60):
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_lacks_nothing(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
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
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
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
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        outcome = run(diamond(), tmp_path / "run", console, f"mlflow:http://127.0.0.1:{silent.getsockname()[1]}")
    assert outcome.ok
    assert time.monotonic() - begun < 90
    assert "lacks the end of this sweep" in console.file.getvalue()


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
    take_notice = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # where this runs in the background
    command = sweep("--inline", "--track", "tensorboard:tb")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=take_notice) as going:
        wait_for(lambda: list(tmp_path.glob("run/stages/*/checkpoint*")))
        going.send_signal(signal.SIGINT)
        begun = time.monotonic()
        going.communicate(timeout=60)
    assert going.returncode == 130 and time.monotonic() - begun < 14


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


def test_mlflow_counts_no_try_that_failed_halfway_as_a_sweep_that_went_on(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
    from raysp.engine.tracking.to_mlflow import Mlflow

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
    pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")
    from raysp.engine.tracking.to_mlflow import Mlflow

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


def test_wandb_offline_has_a_run_per_stage(tmp_path, console, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb isn't installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = run(diamond(leaves=1), tmp_path / "run", console, "wandb:me/p")
    assert outcome.ok
    kept = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(kept) == 4
    whole = b"".join(path.read_bytes() for path in kept)
    for stage in Plan(diamond(leaves=1)).stages.values():
        assert stage.label.encode() in whole and stage.key.encode() in whole
    assert b"final/test_accuracy" in whole and b"raysp.parent.root" in whole
    assert "note" not in console.file.getvalue()


def test_wandb_that_can_not_be_reached_is_asked_again_without_a_trace(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb isn't installed")
    program = """
from raysp.engine.tracking import to_wandb
from raysp.engine.tracking.interface import Run
to_wandb.INIT_S = 1.0
tracker = to_wandb.Wandb("me/p")
for _ in range(2):
    try:
        tracker.open(Run(id="abc", name="n", kind="k", label="l", sweep="s"))
    except Exception as error:
        print(error)
"""
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens here
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.count("refused") == 2 and "in use" not in said
    assert not list(tmp_path.glob("wandb/run-*"))


def test_a_console_that_is_closed_does_no_harm(tmp_path):
    assert run([toy()], tmp_path / "run", Console(quiet=True), "tensorboard:tb").ok
