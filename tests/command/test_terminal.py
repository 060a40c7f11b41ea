"""A sweep whose terminal, or whose reader, goes away."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from toy import diamond

from raysp.planning.plan import Plan
from raysp.store.records import Store

TOY_CLI = Path(__file__).parents[1] / "helpers" / "toy_cli.py"
ON_RAY = ("--address", "local", "--gpus-per-stage", "0", "--max-concurrent", "2")
ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Makes standard input the terminal that a program is closed with."""


@pytest.fixture(autouse=True)
def buffered(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("TOY_EPOCH_S", "0.1")


def arguments(root, *flags):
    return [str(TOY_CLI), "--storage", str(root / "run"), *flags]


def read_until(descriptor, text):
    found = b""
    while text not in found:
        part = os.read(descriptor, 4096)
        assert part, found.decode()
        found += part


def all_done(root):
    return all(Store(root=root / "run").read(stage) for stage in Plan(diamond(epochs=6)).stages.values())


@pytest.mark.parametrize("flags", [("--inline",), pytest.param(ON_RAY, marks=pytest.mark.slow)])
def test_a_sweep_outlives_the_reader_of_its_output(tmp_path, flags):
    with (tmp_path / "errors").open("wb") as errors:
        sweep = subprocess.Popen([sys.executable, *arguments(tmp_path, *flags)], stdout=subprocess.PIPE, stderr=errors)
    with sweep.stdout:
        read_until(sweep.stdout.fileno(), b"done")
    status, said = sweep.wait(timeout=120), (tmp_path / "errors").read_text()
    assert status == 0, said
    assert all_done(tmp_path) and "Broken pipe" not in said
    assert not list(tmp_path.glob("run/stages/*/error.txt"))


@pytest.mark.parametrize(("hangup", "status"), [("SIG_DFL", 143), ("SIG_IGN", 0)])
def test_a_closed_terminal_ends_a_sweep_only_by_its_signal(tmp_path, hangup, status):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, hangup, *arguments(tmp_path, "--inline")]
    sweep = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    read_until(ours, b"done")
    os.close(ours)
    assert sweep.wait(timeout=120) == status
    assert all_done(tmp_path) == (status == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_log_costs_its_lines_alone(tmp_path):
    with Path("/dev/full").open("w") as log:
        sweep = subprocess.run(
            [sys.executable, *arguments(tmp_path, "--inline")], stdout=log, stderr=subprocess.PIPE, timeout=120
        )
    assert sweep.returncode == 0, sweep.stderr.decode()
    assert all_done(tmp_path)


@pytest.mark.parametrize(("flags", "status"), [((), 0), (("--retries", "-1"), 2)])
def test_without_any_output_the_status_is_the_same(tmp_path, flags, status):
    line = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, *arguments(tmp_path, "--inline", *flags)]
    assert subprocess.run(line, timeout=120, check=False).returncode == status
