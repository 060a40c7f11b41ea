import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import toy

from raysp.engine.job import run_job
from raysp.planning.plan import Plan, inspect, survey
from raysp.store.location import UNFINISHED_NAME, create, write_atomically
from raysp.store.lock import StoreBusy
from raysp.store.records import ABANDONED_AFTER_S, SCRATCH, NoLongerOwner, Store
from raysp.store.tensor_files import DamagedFile


def nothing(figures):
    """A report to nobody."""


@pytest.fixture
def done(place):
    """A stage that is done."""
    stage = toy(number=5)
    run_job(stage, place, nothing)
    return stage


def test_a_record_means_done(place):
    stage = toy(number=5)
    assert place.store.read(stage) is None
    written = run_job(stage, place, nothing)
    record = place.store.read(stage)
    assert record["key"] == stage.key
    assert record["config"] == {"number": 5, "epochs": 3, "behaviour": ""}
    assert record["metrics"] == written["metrics"]
    assert [h["epoch"] for h in record["history"]] == [1, 2, 3]
    assert {"started", "finished", "time_s", "host", "versions", "parents", "labels"} <= record.keys()
    assert sorted(p.name for p in place.store.directory(stage).iterdir()) == ["record.json", "weights.safetensors"]


def _replace(path, make):
    path.unlink()
    make(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "record.json").write_bytes((d / "record.json").read_bytes()[:100]),
        lambda d: (d / "record.json").write_bytes(b""),
        lambda d: (d / "record.json").write_text("[]"),
        lambda d: (d / "record.json").write_text('{"format": 1}'),
        lambda d: (d / "record.json").write_text((d / "record.json").read_text().replace('"key": "', '"key": "0')),
        lambda d: (d / "record.json").write_text((d / "record.json").read_text().replace("weights.s", "../weights.s")),
        lambda d: os.truncate(d / "weights.safetensors", 20),
        lambda d: (d / "weights.safetensors").write_bytes(b"\0" * (d / "weights.safetensors").stat().st_size),
        lambda d: (d / "weights.safetensors").unlink(),
        lambda d: _replace(d / "weights.safetensors", Path.mkdir),
        lambda d: _replace(d / "record.json", Path.mkdir),
        lambda d: _replace(d / "record.json", lambda p: p.symlink_to(p)),
        lambda d: _replace(d / "record.json", os.mkfifo),
    ],
)
def test_damage_is_noticed_and_the_stage_is_missing(place, done, damage):
    damage(place.store.directory(done))
    with pytest.raises(DamagedFile, match=done.label):
        place.store.read(done)
    found = survey(Plan([done]), place.store)
    assert found.missing == [done]
    assert found.damaged == [done]
    for error in inspect(done, place.store)[1]:
        if os.path.lexists(error.path):
            place.store.set_aside(error.path)
    assert place.store.read(done) is None
    run_job(done, place, nothing)
    assert survey(Plan([done]), place.store).found == [done]


def test_set_aside_keeps_every_version(place, done):
    path = place.store.directory(done) / "record.json"
    for number in (1, 2):
        path.write_text(f"broken {number}")
        assert place.store.set_aside(path).read_text() == f"broken {number}"
    assert not path.exists()


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_cut_checkpoint_is_noticed(place, cut):
    stage = toy()
    place.store.save_checkpoint(stage, {"x": torch.arange(10.0)}, {"epoch": 3})
    tensors, state = place.store.load_checkpoint(stage)
    assert state == {"epoch": 3}
    assert torch.equal(tensors["x"], torch.arange(10.0))
    path = place.store.directory(stage) / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    with pytest.raises(DamagedFile, match="checkpoint"):
        place.store.load_checkpoint(stage)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedFile, match="digest"):
        place.store.load_checkpoint(stage)


def test_what_a_killed_runner_left_goes_when_the_root_is_next_held(tmp_path):
    leftovers = (
        ".raysp-tune/deep/file",
        ".tmp-results.csv-0123abcd",
        "plans/.tmp-0.json-0123abcd",
        "searches/.tmp-0.json-0123abcd",
        "stages/toy-0/.tmp-record.json-0123abcd",
    )
    for name in leftovers:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    an_hour_ago = (tmp_path / leftovers[0]).stat().st_mtime - ABANDONED_AFTER_S
    os.utime(tmp_path / ".tmp-results.csv-0123abcd", (an_hour_ago, an_hour_ago - 1))
    with Store(root=tmp_path).lock():
        assert [path.name for path in tmp_path.glob("**/*") if path.is_file()] == [".lock"]
        assert not (tmp_path / SCRATCH).exists()


def test_what_others_write_into_a_root_stays_when_it_is_held(tmp_path):
    others = (".tmp-report.html-0123abcd", ".tmp-notes", "work/.tmp-draft-0123abcd", "stages/toy-0/.tmp-notes", ".tune/mine")
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in others[1:]:
        os.utime(tmp_path / name, (0, 0))
    with Store(root=tmp_path).lock():
        assert all((tmp_path / name).exists() for name in others)


def test_what_a_killed_write_leaves_is_known_by_its_name(tmp_path, monkeypatch):
    def killed(*arguments):
        raise OSError("killed")

    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # nobody tidies up after a kill
    monkeypatch.setattr(os, "fsync", killed)
    monkeypatch.setattr(os, "link", killed)
    for write in (write_atomically, create):
        with pytest.raises(OSError, match="killed"):
            write(tmp_path / "results.csv", b"")
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 2 and all(UNFINISHED_NAME.fullmatch(name) for name in names)


def test_another_stages_checkpoint_is_refused(place):
    mine, other = toy(number=1), toy(number=2)
    for stage in (mine, other):
        place.store.save_checkpoint(stage, {}, {})
    name = "checkpoint.safetensors"
    (place.store.directory(mine) / name).write_bytes((place.store.directory(other) / name).read_bytes())
    with pytest.raises(DamagedFile, match="belongs to key"):
        place.store.load_checkpoint(mine)


def test_a_changed_number_in_a_record_is_noticed(place, done):
    path = place.store.directory(done) / "record.json"
    path.write_text(path.read_text().replace('"relus": 5', '"relus": 4'))
    with pytest.raises(DamagedFile, match="digest"):
        place.store.read(done)


def test_what_a_kill_leaves_beside_a_record_is_dropped_by_the_next_run(place, done):
    place.store.save_checkpoint(done, {}, {})
    place.store.write_error(done, "old")
    place.store.drop_leftovers(done)
    assert sorted(p.name for p in place.store.directory(done).iterdir()) == ["record.json", "weights.safetensors"]


def test_a_second_driver_is_refused_and_told_who_holds_the_root(place):
    code = f"""
from pathlib import Path
from raysp.store.records import Store
with Store(root=Path({str(place.store.root)!r})).lock(): pass
"""
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode == 1
    assert f"StoreBusy: {place.store.root} is in use by process {os.getpid()}" in second.stderr


def test_the_lock_of_a_killed_driver_is_free_and_its_workers_write_no_more(tmp_path):
    code = f"""
import time
from pathlib import Path
from raysp.store.records import Store
with Store(root=Path({str(tmp_path)!r})).lock() as store:
    print(store.run_id, flush=True)
    time.sleep(100)
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    old = Store(root=tmp_path, run_id=driver.stdout.readline().strip())
    old.save_checkpoint(toy(), {}, {})
    with pytest.raises(StoreBusy), Store(root=tmp_path).lock():
        pass
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    with Store(root=tmp_path).lock():
        for write in (
            lambda: old.save_checkpoint(toy(), {}, {}),
            lambda: old.commit(toy(), {}, {}),
            lambda: old.set_aside(tmp_path / "x"),
            lambda: old.save_weights(toy(), {}),
        ):
            with pytest.raises(NoLongerOwner):
                write()


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_read_now_is_neither_missing_nor_damaged(place, done, monkeypatch, error):
    before = {path: path.read_bytes() for path in place.store.directory(done).iterdir()}
    real = Path.read_bytes

    def fail(path):
        if path.name == "record.json":
            raise OSError(error, os.strerror(error))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(error))):
        survey(Plan([done]), place.store)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in place.store.directory(done).iterdir()} == before


def test_weights_that_another_process_wrote_again_do_not_pass_for_the_records(place):
    stage = toy()
    files = {"weights.safetensors": place.store.save_weights(stage, {"x": torch.ones(3)})}
    place.store.save_weights(stage, {"x": torch.zeros(3)})
    place.store.commit(stage, {"key": stage.key, "stage": "toy", "config": {}, "metrics": {}, "history": [], "rows": []}, files)
    with pytest.raises(DamagedFile, match="its content is not what the record says"):
        place.store.read(stage)


def test_a_reader_writes_nothing(tmp_path):
    with pytest.raises(NoLongerOwner):
        Store(root=tmp_path).save_weights(toy(), {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(place, monkeypatch):
    stage = toy()
    place.store.save_checkpoint(stage, {}, {"epoch": 1})
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        place.store.save_checkpoint(stage, {}, {"epoch": 2})
    assert place.store.load_checkpoint(stage)[1] == {"epoch": 1}
    assert [p.name for p in place.store.directory(stage).iterdir()] == ["checkpoint.safetensors"]


def test_a_record_never_holds_nan(place):
    with pytest.raises(ValueError, match="Out of range float values"):
        place.store.commit(toy(), {"metrics": {"x": float("nan")}}, {})
    assert place.store.read(toy()) is None


@pytest.mark.parametrize("name", ["../up", "Up", "", "a/b", "a" * 60, ".hidden"])
def test_a_stage_name_cannot_leave_the_root(name):
    with pytest.raises(ValueError, match="stage name"):
        toy(name)
