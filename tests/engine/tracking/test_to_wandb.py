import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
from toy import diamond
from tracked import run

from raysp.planning.plan import Plan

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="the extra wandb isn't installed")


def test_wandb_offline_has_a_run_per_stage(tmp_path, console, monkeypatch):
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
