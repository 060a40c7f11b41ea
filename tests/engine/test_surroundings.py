"""What a machine gives a process, on machines of every kind, pretended below a directory."""

import os
import socket
import tempfile

import pytest

from raysp.engine import surroundings
from raysp.engine.surroundings import (
    answers,
    can_write,
    control_groups,
    cpus,
    look,
    memory,
    ray_address,
    ray_directory,
    ray_token,
)
from raysp.engine.troubles import SOCKET_PATH_MOST, troubles

MEMINFO = "MemTotal:       16000000 kB\nMemFree:        100 kB\nMemAvailable:   12000000 kB\n"
GIB = 1 << 30
HALF_A_CPU = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make files below a root, with eight CPUs in it."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    root = tmp_path / "root"

    def make(files):
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    make({})
    return make


@pytest.fixture
def short():
    """A directory with a name that leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as directory:
        yield directory


@pytest.mark.parametrize(
    ("files", "quota", "ray"),
    [
        pytest.param({}, None, 8, id="neither /proc nor /sys"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 8, id="2: no limit"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, 0, id="2: docker --cpus=0.5"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
            },
            2.5,
            8,
            id="2: the limit is above, where Ray doesn't look",
        ),
        pytest.param({"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, 1, id="2: namespaces"),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3.0,
            3,
            id="1: inside a container the group's directory isn't there",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpuset/cpuset.cpus": "0-1,5\n",
            },
            None,
            3,
            id="1: no quota, three CPUs",
        ),
        pytest.param({"proc/self/cgroup": "nonsense\n::\n", "sys/fs/cgroup/cpu.max": "a b c"}, None, 8, id="nonsense"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None, 8, id="a period of 0"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max/a": ""}, None, 8, id="a directory for a file"),
    ],
)
def test_cpus_by_control_groups(files, quota, ray, machine):
    found = cpus(machine(files))
    assert (found.machine, found.affinity, found.quota, found.ray) == (8, 8, quota, ray)
    assert found.usable == (quota or 8)


def test_cpus_by_affinity(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    found = cpus(machine({}))
    assert (found.usable, found.ray) == (1, 8)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert cpus(machine({})).affinity == 8


@pytest.mark.parametrize(
    ("files", "limit", "free"),
    [
        pytest.param({}, None, None, id="no /proc"),
        pytest.param({"proc/meminfo": "nonsense"}, None, None, id="nonsense"),
        pytest.param({"proc/meminfo": MEMINFO}, None, 12_000_000 * 1024, id="no limit"),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": str(4 * GIB),
                "sys/fs/cgroup/a/memory.current": str(3 * GIB),
                "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GIB - 7}\nactive_file 7\n",
            },
            4 * GIB,
            2 * GIB,
            id="2: what is kept of files can go",
        ),
        pytest.param(
            {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
            None,
            12_000_000 * 1024,
            id="2: max",
        ),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "4:memory:/gone\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
            },
            GIB,
            GIB,
            id="1",
        ),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63),
            },
            None,
            12_000_000 * 1024,
            id="1: a huge number is no limit",
        ),
    ],
)
def test_memory(files, limit, free, machine):
    found = memory(machine(files))
    assert (found.limit, found.free) == (limit, free)


def test_what_can_not_be_read_is_no_error(machine, monkeypatch):
    root = machine({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 1", "proc/meminfo": MEMINFO})
    (root / "proc" / "self" / "cgroup").write_bytes(b"\xff\xfe")
    (root / "proc" / "meminfo").write_bytes(b"\xff\xfe")
    assert control_groups(root, "cpu") == []
    assert look(root, {}).memory.free is None

    def forbidden(*arguments, **options):
        raise PermissionError("no")

    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    found = look(root, {"HOME": "/nowhere/at/all", "RAY_TMPDIR": str(root)})
    assert found.cpus.usable == 8 and found.memory.total is None


def test_where_ray_would_be(tmp_path):
    assert ray_directory({"TMPDIR": "/a", "RAY_TMPDIR": "/b"}).parts[1] == "b"
    assert ray_address({}, tmp_path) == (None, "")
    (tmp_path / "ray_current_cluster").write_text("127.0.0.1:6379\n")
    assert ray_address({}, tmp_path) == ("127.0.0.1:6379", str(tmp_path / "ray_current_cluster"))
    assert ray_address({"RAY_ADDRESS": "host:1"}, tmp_path) == ("host:1", "RAY_ADDRESS")


def test_whether_an_address_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers(f"127.0.0.1:{port}") is True
    assert answers(f"127.0.0.1:{port}") is False
    assert answers("127.0.0.1:99999") is False
    assert answers("auto") is None and answers("local") is None and answers("ray://host:1") is None
    assert answers("host") is False


def test_rays_token_is_never_told(tmp_path):
    assert ray_token({"RAY_AUTH_MODE": "disabled"}, tmp_path) == ("", True)
    assert ray_token({"RAY_AUTH_TOKEN": "secret"}, tmp_path) == ("in RAY_AUTH_TOKEN", True)
    told, usable = ray_token({}, tmp_path)
    assert told == f"to be written to {tmp_path}/.ray/auth_token" and usable and list(tmp_path.iterdir()) == []
    assert ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path) == (f"in {tmp_path}/none", False)
    assert ray_token({}, None) == ("", False)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert ray_token({}, tmp_path) == (f"in {tmp_path}/.ray/auth_token", True)


def test_whether_a_directory_can_be_written_to(tmp_path):
    assert can_write(tmp_path / "not" / "yet") and list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert not can_write(tmp_path / "file")
    assert not can_write(tmp_path / "file" / "below")


def said(found):
    return [str(trouble) for trouble in troubles(found)]


def test_no_trouble_on_a_sound_machine(machine, tmp_path, short):
    assert said(look(machine({"proc/meminfo": MEMINFO}), {"HOME": str(tmp_path), "RAY_TMPDIR": short})) == []


@pytest.mark.parametrize(
    ("files", "environ", "told"),
    [
        (HALF_A_CPU, {}, "may use 0.5 CPU, and Ray counts whole ones: 0"),
        ({}, {"RAY_TMPDIR": "/tmp/" + "x" * 60}, f"characters; {SOCKET_PATH_MOST} are the most; set RAY_TMPDIR"),
        ({}, {"RAY_TMPDIR": "/proc/none"}, "/proc/none/ray can't be written to; set RAY_TMPDIR to a directory of your own"),
        ({}, {"HOME": "/proc/none"}, "its token is to be written to /proc/none/.ray/auth_token, which can't be done"),
        ({}, {"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS names a Ray cluster at 127.0.0.1:1, where nothing answers"),
        ({"proc/meminfo": "MemAvailable: 1000000 kB\n"}, {}, "1.02 GB of memory are free, and Ray with one stage takes up to 2"),
    ],
)
def test_what_will_not_work_is_said_with_its_cause(files, environ, told, machine, tmp_path, short):
    root = machine(files)
    (found,) = said(look(root, {"HOME": str(tmp_path), "RAY_TMPDIR": short, **environ}))
    assert told in found


def test_a_cluster_file_that_is_left_over_is_named(machine, tmp_path):
    noted = tmp_path / "t" / "ray" / "ray_current_cluster"
    noted.parent.mkdir(parents=True)
    noted.write_text("127.0.0.1:1")
    told = " ".join(said(look(machine({}), {"HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path / "t")})))
    assert f"give --address local, or remove {noted}" in told


def test_one_core_of_many_is_said(machine, tmp_path, short, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    (found,) = said(look(machine({}), {"HOME": str(tmp_path), "RAY_TMPDIR": short}))
    assert "may run on 1 of 8 CPUs, and Ray counts 8; give --max-concurrent 1" in found


def test_small_shared_memory_is_said(machine, tmp_path, short, monkeypatch):
    monkeypatch.setattr(surroundings, "_size", lambda path: 64 << 20)
    (found,) = said(look(machine({}), {"HOME": str(tmp_path), "RAY_TMPDIR": short}))
    assert "shared memory (/dev/shm) is 67.1 MB" in found
