"""Which Ray a sweep runs on, and what a local one is started with, in odd surroundings."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray._private.worker import _merge_runtime_env

from raysp.engine import surroundings
from raysp.engine.ray import connection
from raysp.engine.ray.connection import MODE, TOKEN, Target, _settings, connect, find
from raysp.engine.surroundings import Cpus, Memory, is_own, own_directory
from raysp.store.remedies import SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
GONE = "127.0.0.1:1"


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """The file in which `ray start` leaves an address, which isn't there yet."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.fixture
def answering(monkeypatch):
    """Let every address answer but that of a cluster that is gone."""
    monkeypatch.setattr(connection, "answers", lambda address, within_s: None if address == "auto" else address != GONE)


def test_a_local_ray_is_the_last_choice(noted, answering, monkeypatch):
    assert find(None) == Target(address=None) == find("local")
    noted.write_text("there:1")
    assert find(None) == Target(address="there:1", named_by=str(noted)) == find("auto")
    assert find("local") == Target(address=None)
    monkeypatch.setenv("RAY_ADDRESS", "set:1")
    assert find(None) == Target(address="set:1", named_by="RAY_ADDRESS")
    assert find("given:1") == Target(address="given:1", named_by="--address")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find(None) == Target(address=None)
    noted.unlink()
    assert find("auto") == Target(address="auto", named_by="--address"), "Ray looks for one"


def test_a_cluster_file_that_is_left_over_is_named_and_passed_over(noted, answering, monkeypatch):
    noted.write_text(GONE)
    target = find(None)
    assert target.address is None
    assert target.note == (
        f"{noted} names a Ray cluster at {GONE}, where none answers, so a local Ray is started; "
        "remove that file if the cluster is gone"
    )
    for given, named_by in (("auto", str(noted)), (GONE, "--address"), ("nonsense", "HOST:PORT")):
        monkeypatch.setattr(connection, "answers", lambda address, within_s: False)
        with pytest.raises(ConnectionError, match="give --address local") as error:
            find(given)
        assert named_by in str(error.value)


def test_a_busy_head_is_not_passed_over(noted):
    late_s = surroundings.LOOK_S + 0.5
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def serve():
            connection, _ = server.accept()
            with connection:
                time.sleep(late_s)
                connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))

        served = pool.submit(serve)
        noted.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        assert find(None).address == noted.read_text()
        served.result()


@contextmanager
def pretended(monkeypatch):
    """What a local Ray is started with and told of, while nothing is started: options, and its environment."""
    begun, told = {}, []
    monkeypatch.setattr(connection, "_init", lambda options, verbose: begun.update(options, environment=dict(os.environ)))
    monkeypatch.setattr(connection, "ray", type("Pretended", (), {"shutdown": staticmethod(lambda: None)}))
    before = dict(os.environ)
    with connect(find("local"), verbose=False, tell=told.append):
        yield begun, told
    assert dict(os.environ) == before


def test_it_gets_the_cpus_that_this_process_has(monkeypatch):
    for cpus, number, note in (
        (Cpus(machine=64, affinity=4, quota=None), 4, ""),
        (Cpus(machine=64, affinity=64, quota=2.5), 2, ""),
        (Cpus(machine=2, affinity=2, quota=0.5), 1, "this process may use 0.5 of a CPU: one stage runs at a time"),
    ):
        monkeypatch.setattr(surroundings, "cpus", lambda root, found=cpus: found)
        with pretended(monkeypatch) as (begun, told):
            assert begun["num_cpus"] == number
            assert [line[: len(note)] for line in told] == [note] * bool(note)


def test_it_has_a_token_of_its_own_that_nobody_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (MODE, TOKEN):
        monkeypatch.delenv(name, raising=False)
    tokens = set()
    for _ in range(2):
        with pretended(monkeypatch) as (begun, _):
            assert begun["environment"][MODE] == "token"
            tokens.add(begun["environment"][TOKEN])
    assert len(tokens) == 2 and {len(token) for token in tokens} == {64}
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(TOKEN, "a cluster's")
    with pretended(monkeypatch) as (begun, _):
        assert len(begun["environment"][TOKEN]) == 64
    monkeypatch.setenv(MODE, "disabled")
    monkeypatch.delenv(TOKEN)
    with pretended(monkeypatch) as (begun, _):
        assert begun["environment"][MODE] == "disabled" and TOKEN not in begun["environment"]


def test_its_files_are_elsewhere_where_the_path_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 90)
    with pretended(monkeypatch) as (begun, (told,)):
        assert begun["_temp_dir"] == f"/tmp/raysp-{os.getuid()}/ray"
        assert told.startswith(f"Ray has its files in /tmp/raysp-{os.getuid()}/ray: sockets' paths below /tmp/xxx")
    monkeypatch.setattr(surroundings, "SHORT", ())
    with pytest.raises(ConnectionError, match=r"no local Ray can be started: .* set RAY_TMPDIR"), pretended(monkeypatch):
        pass


def test_its_files_are_where_nobody_else_can_exchange_them(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as short:
        above = Path(short, "t")
        above.mkdir()
        own = own_directory(above)
        for chosen, mode, below in (("", 0o755, own), ("", 0o700, above), (str(above), 0o755, above)):
            monkeypatch.setenv("TMPDIR", str(above))
            monkeypatch.setenv("RAY_TMPDIR", chosen)
            above.chmod(mode)
            with pretended(monkeypatch) as (begun, told):
                assert begun["_temp_dir"] == str(below / "ray")
                assert not any("files" in line for line in told), "that is nothing to be told of"
        assert is_own(own)
        monkeypatch.setenv("RAY_TMPDIR", "")
        above.chmod(0o755)
        own.chmod(0o755)  # as if another had made it
        monkeypatch.setattr(surroundings, "SHORT", ())
        refused(find("local"), f"no local Ray can be started: others can write to {above}/ray; set RAY_TMPDIR")


def test_too_little_memory_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr(connection, "_init", lambda options, verbose: 1 / 0)
    monkeypatch.setattr(surroundings, "memory", lambda root: Memory(total=None, available=2 * 10**8, limit=None, used=None))
    refused(
        find("local"), "no local Ray can be started: 200 MB of memory can be had, and it takes 300 MB; free some, .* --inline"
    )


def refused(target, why):
    with pytest.raises(ConnectionError, match=why), connect(target, verbose=False):
        pass


def test_a_cluster_that_wants_a_token_and_none_is_there(tmp_path, answering, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(MODE, "token")
    monkeypatch.delenv(TOKEN, raising=False)
    refused(find("there:1"), f"{MODE} is token, and there is none for there:1; set {TOKEN}_PATH")


def test_workers_are_told_how_a_store_is_reached_but_not_what_their_job_has_told_them(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert _settings() == {}
    told = {"AWS_ENDPOINT_URL": "http://there:1"}
    for name, value in {**told, "AWS_REGION": "here"}.items():
        monkeypatch.setenv(name, value)
    assert _settings() == {"runtime_env": {"env_vars": {**told, "AWS_REGION": "here"}}}
    for job in ({}, {"runtime_env": None}, {"runtime_env": {"env_vars": told}}):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
        ours, theirs = _settings()["runtime_env"], job.get("runtime_env")
        assert _merge_runtime_env(theirs, ours) is not None, "Ray refuses"
    assert ours == {"env_vars": {"AWS_REGION": "here"}}


@pytest.mark.slow
def test_a_cluster_refuses_the_token_of_another_day_at_once(monkeypatch):
    monkeypatch.setenv(MODE, "token")
    monkeypatch.setenv(TOKEN, "1" * 64)
    # The head in a process of its own: Ray reads its token once.
    code = (
        "import ray.cluster_utils as r; made = r.Cluster(initialize_head=True, head_node_args={'num_cpus': 1});"
        "print(made.address, flush=True); input(); made.shutdown()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
        try:
            address = head.stdout.readline().strip()
            with connect(find(address), verbose=False):
                assert ray.cluster_resources()["CPU"] == 1
            monkeypatch.setenv(TOKEN, "0" * 64)
            refused(find(address), rf"{address} refuses our token \(in RAY_AUTH_TOKEN\); set")
            monkeypatch.delenv(MODE)
            refused(find(address), f"{address} asks for a token, and none is sent; set {MODE}=token")
        finally:
            head.communicate("\n", timeout=60)


def test_under_uv_run_nothing_is_sent_to_workers(monkeypatch):
    from ray._private import ray_constants

    seen = []
    enabled = lambda **options: seen.append(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)  # noqa: E731
    monkeypatch.setattr(ray, "init", enabled)
    before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    monkeypatch.delenv(connection.UV_RUN, raising=False)
    connection._init({}, verbose=False)
    monkeypatch.setenv(connection.UV_RUN, "1")
    connection._init({}, verbose=False)
    assert [*seen, ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV] == [False, before, before]
