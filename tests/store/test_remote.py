"""Results on an object store, against a real S3 server process on loopback."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from networks import gated
from rich.console import Console
from servers import wait_until_it_listens
from toy import HELPERS, diamond, toy

import raysp
from analysis.report import write_report
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.planning.plan import Plan
from raysp.store import location, lock
from raysp.store.location import create, locate, write_atomically
from raysp.store.records import NoLongerOwner, Store
from raysp.store.tryout import StorageLacks

pytest.importorskip("s3fs")
pytest.importorskip("moto")

INLINE = RunOptions(inline=True, gpus_per_stage=0)
# s3fs leaves its session open at the end of the process
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": str(HELPERS),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(location, "TRY_AGAIN_AFTER_S", (0.2, 0.5))
        for name, value in settings.items():
            patch.setenv(name, value)
        wait_until_it_listens(port, process)
        locate("s3://runs").fs.mkdir("runs")
        yield
    process.terminate()
    process.wait()


@pytest.fixture
def root(server, request):
    return locate(f"s3://runs/{request.node.name.replace('[', '-').replace(']', '')}/deep")


def run(leaves, root, options=INLINE, console=None):
    return run_sweep(leaves, root, [], options, labels={"preset": "toy"}, console=console or Console(quiet=True))


def results(root):
    write_report([root], root)
    return (root / "results.csv").read_bytes()


def files(root):
    """Every object's content but the lock's, by its name in the root."""
    return {key.split("/deep/")[1]: root.fs.cat_file(key) for key in root.fs.find(root.path) if not key.endswith(".lock")}


@pytest.mark.parametrize(
    "options",
    [INLINE, pytest.param(RunOptions(address="local", gpus_per_stage=0, max_concurrent=2), marks=pytest.mark.slow)],
    ids=["inline", "ray"],
)
def test_a_sweep_on_s3_equals_one_in_a_directory_and_is_found_again(root, options, tmp_path, console):
    assert run(diamond(), root, options).ok
    before = files(root)
    assert len(before) == 13, "the plan, a record and weights for each stage, and nothing else"
    again = run(diamond(), root, options, console)
    assert again.ok
    assert not again.done
    assert console.file.getvalue().count("found    ") == 6
    assert files(root) == before
    assert not (root / ".lock").exists(), "the lease was given back"
    assert run(diamond(), tmp_path).ok
    assert without_time(results(root)) == without_time(results(tmp_path))
    assert (root / "pareto.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_no_two_processes_hold_a_root(root):
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [[sys.executable, str(HELPERS / "contender.py"), str(root), seed] for seed in "12"]
    running = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "".join(said).count("held") >= 20


def without_time(table):
    return [line.rpartition(b",")[0] for line in table.splitlines()]


def test_damaged_objects_are_set_aside_and_their_stages_run_again(root, console):
    leaves = diamond(leaves=2)
    assert run(leaves, root).ok
    expected = files(root)
    cut, changed = (Store(root=root).directory(leaf) for leaf in leaves)
    write_atomically(cut / "weights.safetensors", b"half")
    write_atomically(changed / "record.json", (changed / "record.json").read_bytes().replace(b'"relus": 11', b'"relus": 10'))
    assert len(run(leaves, root, console=console).done) == 2
    assert (cut / "weights.safetensors.damaged-1").read_bytes() == b"half"
    assert (changed / "record.json.damaged-1").exists()
    assert {name for name in files(root) if "damaged" not in name} == set(expected)


def test_altered_weights_of_the_same_size_are_noticed_when_a_child_reads_them(root, console):
    (leaf,) = diamond(leaves=1)
    assert run([leaf], root).ok
    store = Store(root=root)
    parent = leaf.parents["left"]
    path = store.directory(parent) / "weights.safetensors"
    content = path.read_bytes()
    write_atomically(path, content[:-1] + bytes([content[-1] ^ 1]))
    (store.directory(leaf) / "record.json").unlink()
    (message,) = run([leaf], root, console=console).failed.values()
    assert "its content is not what the record says" in message
    assert "set aside as weights.safetensors.damaged-1" in message
    assert len(run([leaf], root).done) == 2
    assert path.read_bytes() == content


@pytest.mark.slow
def test_kill_9_in_mid_sweep_then_the_same_command_ends_bit_identical(root, tmp_path):
    run(diamond(epochs=6), tmp_path / "undisturbed")
    log = tmp_path / "log"
    environment = {**os.environ, "TOY_EPOCH_S": "0.15", "TOY_LOG": str(log)}
    command = [sys.executable, str(HELPERS / "toy_sweep.py"), str(root), "inline"]
    chance = random.Random(4)
    for _ in range(3):
        epochs = len(log.read_text().splitlines()) if log.exists() else 0
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not log.exists() or len(log.read_text().splitlines()) < epochs + 2:
            assert driver.poll() is None
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.5))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert last.returncode == 0, last.stderr
    assert "looking for up to" not in last.stdout, "a holder that died on this machine is not waited for"
    assert without_time(results(root)) == without_time(results(tmp_path / "undisturbed"))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.3)
    monkeypatch.setattr(lock, "DEAD_AFTER_S", 6.0)


def test_a_live_holder_is_named_and_keeps_the_root(root, impatient):
    with Store(root=root).lock() as store:
        told = []
        with pytest.raises(lock.StoreBusy, match=f"in use by process {os.getpid()} on {socket.gethostname()}, run"):
            run([toy()], root)
        with pytest.raises(lock.StoreBusy), Store(root=root).lock(told.append):
            pass
        assert "looking for up to" in told[0]
        store.save_weights(toy(), {})
    assert not (root / ".lock").exists()


def test_a_dead_holders_lease_is_taken_over_and_its_workers_write_no_more(root, impatient, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 1.0)
    assert create(root / ".lock", b"process 7 (start b/1) on elsewhere, run 0123")
    assert not create(root / ".lock", b"mine")
    stale = Store(root=root, run_id="0123")
    stale.save_checkpoint(toy(), {}, {})
    with Store(root=root).lock() as store:
        for write in (stale.save_checkpoint, stale.save_weights):
            with pytest.raises(NoLongerOwner, match="is now driven by"):
                write(toy(number=1), {}, {})
        store.save_checkpoint(toy(), {}, {})
        time.sleep(2.5)
        store.check_owner()  # renewed more than once meanwhile
        seen, deadline = lock.holder(root), time.monotonic() + 30
        while lock.holder(root) == seen:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # What a second run does that took this one's lease for a dead one's. Just after a renewal: in the midst of one, it
        # would be the one that is refused.
        write_atomically(root / ".lock", b"process 8 on elsewhere, run 4567")
        time.sleep(2)
        with pytest.raises(NoLongerOwner):
            store.save_weights(toy(), {})
    assert lock.holder(root).endswith("4567"), "another's lease is left alone"


@pytest.mark.parametrize("start", ["0badb007/4026531836/5", "?/0", "HERE/5"])
def test_only_a_holder_of_this_boot_and_namespace_is_known_to_be_dead(start):
    description = f"process 999999 (start {start.replace('HERE', lock._here())}) on {socket.gethostname()}, run 0123"
    assert lock._is_dead_here(description) == (start == "HERE/5")
    assert not lock._is_dead_here(lock._describe("0123"))
    assert lock._is_dead_here(f"renewed 3 times by {lock._describe('0123').replace(str(os.getpid()), '999999', 1)}")
    assert not lock._is_dead_here(lock._describe("0123").replace(socket.gethostname(), "elsewhere"))


@pytest.mark.parametrize(("answer", "is_dead"), [(None, False), (PermissionError, False), (ProcessLookupError, True)])
def test_a_living_holder_that_proc_hides_is_not_taken_for_dead(answer, is_dead, monkeypatch):
    def kill(pid, number):
        assert (pid, number) == (os.getpid(), 0)
        if answer:
            raise answer

    description = lock._describe("0123")
    hidden = f"/proc/{os.getpid()}/stat"  # as with hidepid=2, where the holder is another user's
    monkeypatch.setattr(Path, "read_text", lambda path: (path.with_name("none") if str(path) == hidden else path).open().read())
    monkeypatch.setattr(os, "kill", kill)
    assert lock._is_dead_here(description) == is_dead


def test_the_lease_serves_where_a_file_system_has_no_locks(tmp_path, impatient, monkeypatch):
    monkeypatch.setattr(lock.fcntl, "flock", lambda file, how: (_ for _ in ()).throw(OSError(lock.errno.ENOLCK, "No locks")))
    with Store(root=tmp_path).lock() as store:
        store.save_weights(toy(), {})
        with pytest.raises(lock.StoreBusy), Store(root=tmp_path).lock():
            pass
    (tmp_path / ".lock").write_text("process 7 (start b/1) on elsewhere, run 0123")
    assert run([toy(number=2)], tmp_path).ok


def test_a_network_that_fails_is_neither_damage_nor_a_failed_stage(root, monkeypatch):
    leaves = diamond(leaves=1)
    assert run([leaves[0].parents["left"]], root).ok
    before = files(root)
    real, calls = type(root.fs).cat_file, []

    def fail(fs, path, *args, **options):
        calls.append(path)
        raise ConnectionResetError("the network is gone")

    monkeypatch.setattr(type(root.fs), "cat_file", fail)
    monkeypatch.setattr(type(root), "read_bytes", lambda path: fail(path.fs, path.path))
    with pytest.raises(location.Unreachable, match=r"s3://runs/.* can't be reached: the network is gone"):
        run(leaves, root)
    assert len(calls) > 2, "tried several times"
    monkeypatch.undo()
    monkeypatch.setattr(location, "TRY_AGAIN_AFTER_S", (0.2, 0.5))
    assert type(root.fs).cat_file == real
    assert files(root) == before
    assert run(leaves, root).ok


def test_a_saved_model_is_loaded_from_a_url(root, tmp_path):
    model = gated("resnet18", 3)
    write_atomically(root / "weights.safetensors", raysp.save_model(model, tmp_path).read_bytes())
    loaded = raysp.load_model(str(root), exit="ac3")
    assert raysp.count_costs(loaded, "ac3") == raysp.count_costs(model, "ac3")
    with pytest.raises(ValueError, match=r"no weights.safetensors in s3://runs/nothing"):
        raysp.load_model("s3://runs/nothing")


def test_a_missing_bucket_is_not_made(server, tmp_path):
    with pytest.raises(
        StorageLacks, match=r"s3://no-such-bucket/run: a file can't be written: The specified bucket does not exist"
    ):
        run([toy()], locate("s3://no-such-bucket/run"))
    assert not locate("s3://no-such-bucket").exists()


@pytest.mark.parametrize(
    "url", ["http://x/y", "memory://x", "nonsense://x", "data://x", "s3:/x/y", "S3:x", "a::s3://x", "gs:x", "file:x"]
)
def test_what_cannot_be_written_is_refused(url):
    with pytest.raises(ValueError, match="expected a directory, or a URL such as s3://bucket/run"):
        locate(url)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(protocol):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(location.fsspec, "get_filesystem_class", missing)
    with pytest.raises(
        ValueError, match=r"\(Please install gcsfs .*\); pip install -e '\.\[gs\]' where raysp lies, on every node"
    ):
        locate("gs://bucket/run")


@pytest.mark.parametrize("url", ["s3://", "s3:///", "S3://"])
def test_a_url_without_a_bucket_is_refused(url):
    with pytest.raises(ValueError, match=r"names no place; expected a URL such as s3://bucket/run"):
        locate(url)


def test_paths_and_file_urls_are_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("a/b") == tmp_path / "a" / "b"
    assert locate(f"file://{tmp_path}/c") == tmp_path / "c"
    assert locate(f"file://localhost{tmp_path}/c") == tmp_path / "c"
    with pytest.raises(ValueError, match="names another host"):
        locate("file://elsewhere/c")
    assert locate("run:1") == tmp_path / "run:1"
    assert locate("~/x") == Path.home() / "x"
    assert Plan([toy()]).leaves
