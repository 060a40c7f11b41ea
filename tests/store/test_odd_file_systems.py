"""Directories on file systems that lack fsync of directories, hard links, locks, or room: whole processes, sweeps too."""

import os
import subprocess
import sys

import pytest
from toy import HELPERS, diamond

from raysp.planning.plan import Plan
from raysp.store.records import Store


def start(lacks, root, *command):
    """A process that sees a directory so."""
    environ = os.environ | {
        "ODD_FS": lacks, "ODD_FS_ROOT": str(root), "PYTHONPATH": os.pathsep.join([str(HELPERS / "odd_fs"), *sys.path])
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def sweep(lacks, root):
    """Status and output of a sweep there."""
    running = start(lacks, root, HELPERS / "toy_cli.py", "--storage", root, "--inline")
    return running.communicate(timeout=120)[0], running.returncode


def is_done(root):
    return all(Store(root=root).read(stage) for stage in Plan(diamond(epochs=6)).stages.values())


@pytest.mark.slow
@pytest.mark.parametrize("lacks", ["fsyncdir", "sham,link,fsyncdir"])
def test_a_sweep_trains_without(lacks, tmp_path):
    said, status = sweep(lacks, tmp_path)
    assert status == 0, said
    assert is_done(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".tmp", ".lock-after"))] == []


def trial(lacks, root):
    """What comes of a place that is tried."""
    act = "import sys; from raysp.store.location import locate; from raysp.store.tryout import try_out"
    return start(lacks, root, "-c", f"{act}; print(try_out(locate(sys.argv[1])))", root).communicate(timeout=60)[0]


@pytest.mark.parametrize(
    ("lacks", "locks"), [("fsyncdir", True), ("link", True), ("link,flock,fsyncdir", False), ("sham", False)]
)
def test_what_a_run_can_do_without_is_no_fault(lacks, locks, tmp_path):
    assert trial(lacks, tmp_path) == f"Trial(locks={locks}, deletes=True)\n"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_disk_is_not_passed_over(tmp_path):
    said = trial("eio", tmp_path)
    assert f"storage {tmp_path}: a file can't be written: Input/output error; give another --storage" in said


@pytest.mark.parametrize("lacks", ["flock,link", "flock", "sham,link"])
def test_no_two_processes_hold_a_root_where_there_are_no_locks(lacks, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root-inside").mkdir()
    running = [start(lacks, root, HELPERS / "contender.py", root, seed) for seed in range(4)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert "".join(said).count("held") > 3


@pytest.mark.slow
def test_a_quota_that_is_full_ends_a_sweep_and_the_same_command_goes_on(tmp_path):
    said, status = sweep("quota", tmp_path)
    assert status == 1
    assert "Disk quota exceeded; make room within your quota" in " ".join(said.split())
    assert str(tmp_path / "stages") in said
    assert not is_done(tmp_path)
    said, status = sweep("", tmp_path)
    assert status == 0 and said.count("found ") >= 1, said
    assert is_done(tmp_path)


def test_a_limit_of_the_shell_is_named(tmp_path):
    act = "import resource, sys; from raysp.store.location import locate, write_atomically as write"
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))"
    command = ["-c", f"{act}; {limit}; write(locate(sys.argv[1]) / 'x', bytes(99999))", tmp_path]
    said = start("", tmp_path, *command).communicate(timeout=60)[0]
    assert "File too large; files may be no larger here: raise the shell's limit (ulimit -f)" in said and f"{tmp_path}/x" in said
    assert list(tmp_path.iterdir()) == []


def test_a_quota_that_is_full_before_the_start_is_found_before_training(tmp_path):
    (tmp_path / "stages" / "mine").mkdir(parents=True)
    (tmp_path / "stages" / "mine" / "record.json").touch()
    said = trial("quota", tmp_path)
    assert "a file can't be written: Disk quota exceeded; make room within your quota (of bytes, and of files)" in said
