"""What is a tracker, and what is refused before a sweep begins."""

import sqlite3
import subprocess
import sys

import pytest
from toy import HELPERS
from tracked import sweep

from raysp.engine.options import RunOptions


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
