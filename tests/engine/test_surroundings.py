"""What a machine gives a process, on machines of every kind, pretended below a directory."""

import os
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from raysp.engine import surroundings
from raysp.engine.standins import make_own
from raysp.engine.surroundings import (
    BUSY_S,
    SOCKET_PATH_MOST,
    answers,
    can_write,
    control_groups,
    cpus,
    look,
    memory,
    own_directory,
    ray_address,
    ray_directory,
    ray_token,
    short_directory,
)
from raysp.engine.troubles import troubles

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
    ("files", "quota", "whole"),
    [
        pytest.param({}, None, 8, id="neither /proc nor /sys"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 8, id="2: no limit"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, 1, id="2: docker --cpus=0.5"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
            },
            2.5,
            2,
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
            },
            None,
            8,
            id="1: no quota",
        ),
        pytest.param({"proc/self/cgroup": "nonsense\n::\n", "sys/fs/cgroup/cpu.max": "a b c"}, None, 8, id="nonsense"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None, 8, id="a period of 0"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max/a": ""}, None, 8, id="a directory for a file"),
    ],
)
def test_cpus_by_control_groups(files, quota, whole, machine):
    found = cpus(machine(files))
    assert (found.machine, found.affinity, found.quota, found.whole) == (8, 8, quota, whole)
    assert found.usable == (quota or 8)


def test_cpus_by_affinity(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    found = cpus(machine({}))
    assert (found.usable, found.whole) == (1, 1)
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
    for content in (b"", b"\xff\xfe"):
        (tmp_path / "ray_current_cluster").write_bytes(content)
        assert ray_address({}, tmp_path) == (None, "")
    assert ray_directory({"RAY_TMPDIR": "", "TMPDIR": "t"}) == Path.cwd() / "t" / "ray"


@contextmanager
def serving(*answer):
    """A server on loopback that says something to whoever connects, and then nothing more; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool, ExitStack() as kept:

        def serve():
            with suppress(OSError):
                while True:
                    connection = kept.enter_context(server.accept()[0])
                    for part in answer:
                        connection.sendall(part)

        pool.submit(serve)
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_whether_a_ray_listens_at_an_address(monkeypatch):
    with serving(b"\0\0", b"\0\4\0\0\0\0\0") as address:
        assert answers(address, BUSY_S) is True
    assert answers(address, BUSY_S) is False, "nobody is there any more"
    with serving(b"HTTP/1.0 400 Bad request\r\n") as address:
        assert answers(address, BUSY_S) is False
        monkeypatch.setenv("RAY_USE_TLS", "1")
        assert answers(address, BUSY_S) is True, "it can't be told"
        monkeypatch.delenv("RAY_USE_TLS")
    with serving() as address:
        assert answers(address, 0.2) is False, "it says nothing"
    assert answers("127.0.0.1:99999", BUSY_S) is False
    assert answers("auto", BUSY_S) is None and answers("local", BUSY_S) is None and answers("ray://host:1", BUSY_S) is None
    assert answers("host", BUSY_S) is False


def test_the_token_of_a_cluster_is_never_told(tmp_path):
    assert ray_token({"RAY_AUTH_TOKEN": "secret"}, tmp_path) == "in RAY_AUTH_TOKEN"
    assert ray_token({"RAY_AUTH_TOKEN": " "}, tmp_path) == "" and list(tmp_path.iterdir()) == []
    assert ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path) == ""
    assert ray_token({}, None) == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert ray_token({}, tmp_path) == f"in {tmp_path}/.ray/auth_token"


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
        (HALF_A_CPU, {}, "at full speed, because this process may use 0.5 of a CPU; give its container 1 CPU or more"),
        ({}, {"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS names a Ray cluster at 127.0.0.1:1, where none answers"),
        ({"proc/meminfo": "MemAvailable: 1000000 kB\n"}, {}, "1.02 GB of memory are free, and Ray with one stage takes up to 2"),
        (
            {"proc/meminfo": "MemTotal: 10000000 kB\nMemAvailable: 9000000 kB\n"},
            {"RAY_memory_usage_threshold": "0.05"},
            "stages on a local Ray, because 10% of memory is in use, and Ray ends workers from 5% on; free some",
        ),
    ],
)
def test_what_will_not_work_is_said_with_its_cause(files, environ, told, machine, tmp_path, short):
    root = machine(files)
    (found,) = said(look(root, {"HOME": str(tmp_path), "RAY_TMPDIR": short, **environ}))
    assert told in found


@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("/tmp/" + "x" * 60, f"characters; {SOCKET_PATH_MOST} are the most"),
        ("/proc/none", "/proc/none/ray can't be written to"),
    ],
)
def test_sessions_are_elsewhere_where_ray_can_not_have_them(directory, why, machine, tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "SHORT", ("/proc/none", "/tmp"))
    environ = {"HOME": str(tmp_path), "RAY_TMPDIR": directory}
    found = look(machine({}), environ)
    assert found.sessions == Path("/tmp", f"raysp-{os.getuid()}", "ray") and said(found) == []
    monkeypatch.setattr(surroundings, "SHORT", ())
    (told,) = said(look(machine({}), environ))
    assert why in told and "no other place for its files was found; set RAY_TMPDIR" in told


def test_a_directory_that_others_can_enter_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "SHORT", (str(tmp_path / "a"), str(tmp_path / "b")))
    for above in ("a", "b"):
        (tmp_path / above).mkdir()
    own = own_directory(tmp_path / "a")
    assert short_directory() == own and make_own(own) and short_directory() == own
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o755)
    assert short_directory() == own_directory(tmp_path / "b") and not make_own(own)
    own.rmdir()
    own.symlink_to(tmp_path)
    assert short_directory() == own_directory(tmp_path / "b") and not make_own(own)


def test_a_cluster_file_that_is_left_over_is_no_trouble(machine, tmp_path, short):
    noted = Path(short, "ray", "ray_current_cluster")
    noted.parent.mkdir()
    noted.write_text("127.0.0.1:1")
    found = look(machine({}), {"HOME": str(tmp_path), "RAY_TMPDIR": short})
    assert (found.address, found.address_from, found.answers) == ("127.0.0.1:1", str(noted), False)
    assert said(found) == []


def test_one_core_of_many_is_no_trouble(machine, tmp_path, short, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert said(look(machine({}), {"HOME": str(tmp_path), "RAY_TMPDIR": short})) == []


def test_small_shared_memory_is_no_trouble(machine, tmp_path, short, monkeypatch):
    monkeypatch.setattr(surroundings, "_size", lambda path: 64 << 20)  # Ray goes to its own directory
    assert said(look(machine({}), {"HOME": str(tmp_path), "RAY_TMPDIR": short})) == []
