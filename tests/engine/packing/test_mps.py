"""NVIDIA's MPS, started and ended: with a stand-in for its program, which records what it is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from raysp.engine.packing import mps

STAND_IN = r"""#!/bin/sh
here=$(dirname "$0")
if [ "$1" = -d ]; then
  echo "-d ${CUDA_VISIBLE_DEVICES-every GPU}" >> "$here/log"
  if [ -e "$here/refuse" ]; then echo "An instance of this daemon can't be started" ; exit 1; fi
  sleep 600 &
  echo $! > "$here/daemon"
  echo "$CUDA_MPS_PIPE_DIRECTORY" > "$here/directory"
  exit 0
fi
read -r word
echo "$word" >> "$here/log"
if [ -e "$here/running" ]; then exit 0; fi
case $word in
  quit*) kill "$(cat "$here/daemon")" ;;
  *) echo "Cannot find MPS control daemon process"; exit 1 ;;
esac
"""
DRIVER = """
import signal, sys, time
from raysp.engine import termination
from raysp.engine.packing import mps
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with these two ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
termination.install()
mps.PROBE = ""
with mps.started() as found:
    print(found.said, flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError
    if sys.argv[1] == "wait":
        time.sleep(60)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The directory of the stand-in, first on the PATH; a machine on which MPS can be used."""
    (tmp_path / mps.CONTROL).write_text(STAND_IN)
    (tmp_path / mps.CONTROL).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setattr(mps, "PROBE", "")
    return tmp_path


def log(program):
    return (program / "log").read_text().splitlines()


def lives(program):
    """Whether the stand-in's daemon runs; a zombie doesn't."""
    pid = (program / "daemon").read_text().strip()
    done = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def wait_until_ended(program):
    """Until neither the daemon nor its directory is left."""
    wait_for(lambda: not lives(program) and not Path((program / "directory").read_text().strip()).exists(), 20)


def test_it_is_there_for_the_block(program, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with mps.started() as found:
        assert found == mps.Mps(True, "MPS started")
        assert lives(program)
        directory = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert directory == (program / "directory").read_text().strip() == os.environ["CUDA_MPS_LOG_DIRECTORY"]
        assert len(directory) < 80 and Path(directory).stat().st_mode & 0o077 == 0
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ and "CUDA_MPS_LOG_DIRECTORY" not in os.environ
    wait_until_ended(program)
    assert log(program) == ["get_server_list", "-d every GPU", "quit -t 10"]


def test_what_somebody_else_has_started_is_used_and_left(program):
    (program / "running").touch()
    with mps.started() as found:
        assert found == mps.Mps(True, "MPS was running")
    assert log(program) == ["get_server_list"]


def test_without_the_program_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not mps.answers()
    with mps.started() as found:
        assert found == mps.Mps(False, "without MPS: nvidia-cuda-mps-control isn't installed")


def test_a_start_that_is_refused_is_told(program):
    (program / "refuse").touch()
    with mps.started() as found:
        assert not found.is_on
        assert found.said == "without MPS: it didn't start (An instance of this daemon can't be started)"
        assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_a_program_that_is_none_is_told(program):
    (program / mps.CONTROL).write_text("\x7fELF")
    with mps.started() as found:
        assert found.said.startswith("without MPS: it didn't start (OSError: ")


def test_one_that_starts_but_serves_nobody_is_ended_before_anything_runs(program, monkeypatch):
    monkeypatch.setattr(mps, "PROBE", "import sys; sys.exit('CUDA\\'s error 805')")
    with mps.started() as found:
        assert found == mps.Mps(False, "without MPS: it started, but can't be used (CUDA's error 805)")
        assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
        wait_until_ended(program)
    assert log(program)[-1] == "quit -t 10"


def test_the_real_probe_tells_of_a_machine_without_a_gpu(program, monkeypatch):
    monkeypatch.undo()
    if mps._fault([sys.executable, "-c", mps.PROBE], os.environ, program / "try.txt") == "":
        pytest.skip("there is a GPU")
    assert "libcuda" in (program / "try.txt").read_text() or "CUDA's error" in (program / "try.txt").read_text()


@pytest.mark.parametrize(
    ("what", "number", "status"),
    [
        ("end", None, 0),
        ("raise", None, 1),
        ("wait", signal.SIGINT, None),
        ("wait", signal.SIGTERM, None),
        ("wait", signal.SIGHUP, None),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_it_ends_however_the_process_ends(what, number, status, program):
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, what], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    with process:
        assert process.stdout.readline() == "MPS started\n"
        if number is not None:
            assert lives(program)
            os.killpg(process.pid, number)  # as a terminal does it: to the driver and to all that is of its group
    assert process.returncode == status if status is not None else process.returncode != 0
    wait_until_ended(program)
    assert log(program)[-1] == "quit -t 10"
