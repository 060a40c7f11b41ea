"""Images that don't fit into memory are refused before any is decoded."""

import resource
import subprocess
import sys

import pytest
from images import make_tree, opened
from toy import toy

from raysp.data.sources import DataError, open_source
from raysp.engine import memory
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep


def test_images_that_do_not_fit_are_refused_with_their_number_and_bytes(tmp_path, monkeypatch):
    source = opened(make_tree(tmp_path / "data"), size=1024)
    monkeypatch.setattr(memory, "free_memory", lambda: 26 * 3 * 1024**2)
    memory.check_memory([source])
    monkeypatch.setattr(memory, "free_memory", lambda: 26 * 3 * 1024**2 - 1)
    with pytest.raises(
        DataError, match=r"26 images of 3 x 1024 x 1024 bytes \(imagefolder\) take 81.8 MB of memory, and 81.8 MB"
    ):
        memory.check_memory([source])
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    memory.check_memory([source])


def test_images_that_choose_and_test_are_counted_once(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1797 * 64)
    for selection in ("val", "test"):
        memory.check_memory([open_source("digits", None, None, selection)])


def test_a_sweep_refuses_before_it_decodes(tmp_path, monkeypatch, console):
    source = opened(make_tree(tmp_path / "data"))
    monkeypatch.setattr(memory, "free_memory", lambda: 1)
    monkeypatch.setattr("raysp.engine.sweep.load_splits", lambda source: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="can be had"):
        run_sweep([toy(name="one")], tmp_path / "run", [source], RunOptions(inline=True), labels={}, console=console)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the limit isn't kept")
def test_a_limit_of_the_shell_counts():
    code = f"""
import resource
from raysp.engine.memory import free_memory
assert free_memory() is not None
resource.setrlimit(resource.RLIMIT_AS, ({8 << 30}, {resource.RLIM_INFINITY}))
print(free_memory())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 8 << 30
