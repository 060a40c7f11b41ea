"""What somebody who can write to the results, or reach the machine, must not be able to do."""

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
from rich.console import Console
from toy import diamond, toy, with_helpers

import raysp
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.planning.plan import inspect
from raysp.store.record_files import sealed
from raysp.store.records import Store
from raysp.store.tensor_files import DamagedFile

ROOT = Path(__file__).parents[2]
INLINE = RunOptions(inline=True, gpus_per_stage=0)


def run(leaves, root, options=INLINE):
    return run_sweep(leaves, root, [], options, labels={}, console=Console(quiet=True))


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["record.json", "weights.safetensors", "checkpoint.safetensors"])
def test_a_pickle_in_the_results_is_never_loaded(name, tmp_path):
    (leaf,) = diamond(leaves=1)
    root, marker = tmp_path / "results", tmp_path / "executed"
    run([leaf], root)
    directory = Store(root=root).directory(leaf)
    if name == "checkpoint.safetensors":
        (directory / "record.json").unlink()
    (directory / name).write_bytes(pickle.dumps(Payload(marker)))
    assert inspect(leaf, Store(root=root))[1]
    assert run([leaf], root).ok
    if name == "weights.safetensors":
        with pytest.raises(ValueError, match="not readable as safetensors"):
            raysp.load_model(_with_weights(tmp_path / "model", marker))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists(), "the payload would have worked"


def _with_weights(directory, marker):
    directory.mkdir()
    (directory / "weights.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    return directory


HANDED_OVER = {ROOT / "raysp" / "engine" / "packing" / name for name in ("crowd.py", "member.py")}
"""What a process writes for one that it starts itself, into a directory that is this user's alone."""


def reads_weights_only(call):
    return any(k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True for k in call.keywords)


def test_the_code_has_no_call_that_unpickles():
    paths = {*ROOT.glob("raysp/**/*.py"), *ROOT.glob("analysis/**/*.py"), *ROOT.glob("sweeps/*.py")}
    assert paths > HANDED_OVER
    for path in paths - HANDED_OVER:
        tree = ast.parse(path.read_text())
        # With `weights_only` torch reads tensors and plain containers, and refuses the rest.
        safe = {id(call.func) for call in ast.walk(tree) if isinstance(call, ast.Call) and reads_weights_only(call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load") or id(node) in safe, path


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/tmp/outside.safetensors", "a/b.safetensors", "..", ""])
def test_a_record_that_names_other_files_is_not_believed(name, tmp_path):
    stage = toy()
    run([stage], tmp_path)
    path = Store(root=tmp_path).directory(stage) / "record.json"
    record = json.loads(path.read_text())
    record["files"] = {name: next(iter(record["files"].values()))}
    path.write_bytes(sealed({name: value for name, value in record.items() if name != "sha256"}))
    with pytest.raises(DamagedFile, match="not the name of a weights file"):
        Store(root=tmp_path).read(stage)


@pytest.mark.parametrize("kind", ["directory", "nowhere"])
def test_a_stage_directory_that_is_a_link_is_set_aside(kind, tmp_path):
    root, outside = tmp_path / "results", tmp_path / "outside"
    if kind == "directory":
        outside.mkdir()
    stage = toy()
    (root / "stages").mkdir(parents=True)
    Store(root=root).directory(stage).symlink_to(outside)
    assert run([stage], root).ok
    assert not list(outside.glob("*"))
    assert (root / "stages" / f"{stage.label}.damaged-1").is_symlink()
    assert not Store(root=root).directory(stage).is_symlink()


def test_stages_as_a_link_is_refused(tmp_path):
    root, outside = tmp_path / "results", tmp_path / "outside"
    outside.mkdir()
    root.mkdir()
    (root / "stages").symlink_to(outside)
    (message,) = run([toy()], root).failed.values()
    assert "leads out of the results root by a symbolic link" in message
    assert not list(outside.glob("*/*"))


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.safetensors", "record.json", "error.txt"])
def test_files_that_are_links_are_replaced_not_followed(name, tmp_path):
    root, outside = tmp_path / "results", tmp_path / "outside"
    outside.write_text("mine")
    stage = toy(behaviour="raise" if name == "error.txt" else "")
    Store(root=root).directory(stage).mkdir(parents=True)
    (Store(root=root).directory(stage) / name).symlink_to(outside)
    run([stage], root)
    assert outside.read_text() == "mine"
    assert not (Store(root=root).directory(stage) / name).is_symlink()


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    root, outside = tmp_path / "results", tmp_path / "outside"
    root.mkdir()
    outside.write_text("mine")
    (root / ".lock").symlink_to(outside)
    with pytest.raises(OSError, match=r"results can't be written to .*results"):
        run([toy()], root)
    assert outside.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
def test_a_local_ray_asks_for_a_token_and_listens_on_loopback_alone(monkeypatch):
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    from raysp.engine.ray import connection

    monkeypatch.setenv("LISTENING", str(os.getpid()))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("PYTHONPATH", with_helpers())
    with connection.connect(connection.find(None), verbose=False):
        ray.get(ray.remote(num_cpus=0)(_nothing).remote())
        addresses = _listening(f"LISTENING={os.getpid()}".encode())
        assert is_token_auth_enabled()
    assert len(addresses) >= 4, "GCS, raylet, worker and driver"
    assert {address[-8:] for address in addresses} == {"0100007F"}, "127.0.0.1, as the kernel writes it"
    assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") is None


def _nothing():
    """A task that makes a worker start."""


def _listening(mark):
    """Addresses on which this process and those that inherited the mark accept TCP connections."""
    sockets = set()
    for process in Path("/proc").iterdir():
        try:
            if process.name == str(os.getpid()) or (process.name.isdigit() and mark in (process / "environ").read_bytes()):
                sockets |= {str(handle.readlink()) for handle in (process / "fd").iterdir()}
        except OSError:
            continue
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
