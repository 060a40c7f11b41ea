"""A sweep whose terminal, or whose reader, goes away."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy import diamond

from raysp.plan import Plan
from raysp.store import Store

TOY_CLI = Path(__file__).parent / "toy_cli.py"
ON_RAY = ("--address", "local", "--gpus-per-stage", "0", "--max-concurrent", "2")


def command(root, *flags):
    return [sys.executable, str(TOY_CLI), "--storage", str(root), *flags]


@pytest.fixture
def slowly(monkeypatch):
    monkeypatch.setenv("TOY_EPOCH_S", "0.2")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")


def read_until(descriptor, text):
    found = b""
    while text not in found:
        part = os.read(descriptor, 4096)
        assert part, found.decode()
        found += part


def all_done(root):
    return all(Store(root=root).read(stage) for stage in Plan(diamond(epochs=6)).stages.values())


@pytest.mark.parametrize("flags", [("--inline",), pytest.param(ON_RAY, marks=pytest.mark.slow)])
def test_a_sweep_outlives_the_reader_of_its_output(tmp_path, slowly, flags):
    with subprocess.Popen(command(tmp_path, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweep:
        read_until(sweep.stdout.fileno(), b"done")
        sweep.stdout.close()
        said = sweep.stderr.read().decode()
        assert sweep.wait(timeout=120) == 0, said
    assert all_done(tmp_path) and "Broken pipe" not in said
    assert not list(tmp_path.glob("stages/*/error.txt"))


@pytest.mark.parametrize(("is_ignored", "status"), [(False, 143), (True, 0)])
def test_a_closed_terminal_ends_a_sweep_only_by_its_signal(tmp_path, slowly, is_ignored, status):
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
        os.execv(sys.executable, command(tmp_path, "--inline"))
    read_until(terminal, b"done")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    assert all_done(tmp_path) == is_ignored


def test_a_full_disk_under_the_log_costs_its_lines_alone(tmp_path):
    with Path("/dev/full").open("w") as log:
        sweep = subprocess.run(command(tmp_path, "--inline"), stdout=log, stderr=subprocess.PIPE, timeout=120)
    assert sweep.returncode == 0, sweep.stderr.decode()
    assert all_done(tmp_path)
