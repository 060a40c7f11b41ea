"""Places that can't be a results root, or can in another way: found out by trying, on a real S3 server with bad habits."""

import socket
import subprocess
import sys
import urllib.request

import pytest
from servers import wait_until_it_listens
from toy import HELPERS

from raysp.command.doctor import page
from raysp.store import location
from raysp.store.location import locate
from raysp.store.records import Store
from raysp.store.tryout import StorageLacks, try_out

CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
NAMED = r"set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required$"
# s3fs leaves its session open at the end of the process
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server():
    """The server's URL."""
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HELPERS / "s3_habits.py"), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until_it_listens(port, process)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def store(server, monkeypatch, request):
    """Chooses the server's habit, and returns a root there."""
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(location, "TRY_AGAIN_AFTER_S", (0.2,))
    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in CHECKSUMS:
        monkeypatch.delenv(name, raising=False)

    def choose(habit):
        s3fs.S3FileSystem.clear_instance_cache()  # clients keep the settings of when they were made
        for path, method in (("bucket", "PUT"), (f"habit/{habit}", "GET")):
            urllib.request.urlopen(urllib.request.Request(f"{server}/{path}", method=method)).close()
        return locate(f"s3://bucket/{request.node.name.partition('[')[0]}-{habit}")

    yield choose
    choose("none")
    s3fs.S3FileSystem.clear_instance_cache()


def left(root):
    return list(root.fs.find(root.path))


@pytest.mark.parametrize("habit", ["none", "slow_down"])
def test_a_store_that_can_do_all_is_tried_and_left_as_it_was(store, habit):
    root = store(habit)
    found = try_out(root)
    assert (found.deletes, found.locks, found.notes) == (True, False, [])
    assert left(root) == []


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("read_only", "a file can't be written: .*AccessDenied.*must allow these credentials s3:PutObject on what lies there$"),
        ("no_list", "its files can't be listed: .*AccessDenied.*must allow these credentials s3:ListBucket on the bucket$"),
        ("skewed", "a file can't be written: .*RequestTimeTooSkewed.*this machine's clock is wrong: set it"),
        ("no_checksums", f"a file can't be written: .*InvalidArgument.*{NAMED}"),
        ("overwrites", ".*one that is there is overwritten, so that two runs could hold the root"),
    ],
)
def test_what_a_store_lacks_is_named_with_what_to_do(store, habit, said):
    root = store(habit)
    with pytest.raises(StorageLacks, match=rf"^storage {root}: {said}"):
        try_out(root)


def test_an_older_store_works_with_the_settings_that_the_message_names(store, monkeypatch):
    for name in CHECKSUMS:
        monkeypatch.setenv(name, "when_required")
    root = store("no_checksums")
    try_out(root)
    with Store(root=root).lock() as held:
        held.check_owner()


def test_without_the_right_to_delete_a_root_is_held_twice_without_waiting(store):
    root = store("no_delete")
    assert "nothing can be deleted there" in try_out(root).notes[0]
    told = []
    for _ in range(3):
        with Store(root=root).lock(told.append) as held:
            held.check_owner()
        with pytest.raises(Exception, match="now driven by"):
            held.check_owner()
    assert told == []


def test_a_directory_is_tried_where_it_will_be_and_nothing_is_left(tmp_path):
    found = try_out(tmp_path / "not" / "there")
    assert (found.locks, found.deletes) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_tries_a_place_on_request(store, tmp_path, monkeypatch):
    root = store("overwrites")
    said = list(page(tmp_path, {}, storage=str(root)))
    assert "storage    can't be used" in said
    assert any(line.startswith(f"will not work: --storage {root}, because") and "two runs could hold" in line for line in said)
    said = list(page(tmp_path, {}, storage=str(tmp_path / "run")))
    assert f"storage    {tmp_path / 'run'} can be used; the kernel's lock" in said
    assert not any("--storage" in line for line in said if line.startswith("will not work: --storage /"))


def test_a_store_that_is_not_there_is_waited_for_once(store, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        pauses = []
        monkeypatch.setattr(location.time, "sleep", pauses.append)
        with pytest.raises(StorageLacks, match="a file can't be written"):
            try_out(locate("s3://bucket/nobody"))
        assert pauses.count(location.TRY_AGAIN_AFTER_S[0]) == 1


def test_a_directory_that_cannot_be_written_is_named():
    with pytest.raises(StorageLacks, match=r"^storage /proc/results: a file can't be written in /proc: .*another --storage$"):
        try_out(locate("/proc/results"))
