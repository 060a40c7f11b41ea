"""What is a tracker, and what is refused before a sweep begins."""

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


@pytest.mark.parametrize(("package", "track"), [("mlflow", "mlflow:http://127.0.0.1:1"), ("wandb", "wandb:p")])
def test_a_missing_package_ends_a_sweep_before_it_begins(tmp_path, package, track):
    command = [sys.executable, str(HELPERS / "without.py"), package, *sweep("--inline", "--track", track)[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"pip install -e '.[{package}]'" in ended.stderr.replace("\n", " ")
    assert not (tmp_path / "run").exists()
