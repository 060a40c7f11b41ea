"""Sweeps' plans, and what was spent on them."""

import json

import pytest
from records import commit, row, stages
from toy import toy

from analysis.report import read_report, write_report
from analysis.spending import device_seconds
from raysp.store.manifest import manifest_of, read_manifests, write_manifest
from raysp.store.records import Store


def test_a_plan_is_kept_once_and_damage_is_named(tmp_path):
    plan = stages(1, 2)
    with Store(root=tmp_path).lock() as store:
        for command in ("first", "second"):
            write_manifest(store, manifest_of(list(plan.leaves.values()), "quick", command))
    (path,) = (tmp_path / "plans").iterdir()
    plain = json.loads(path.read_text())
    (stage, *_) = plain["stages"]
    foreign = [
        {"format": 1},
        plain | {"stages": []},
        plain | {"id": ["a"]},
        plain | {"command": "a\nb"},
        *(
            plain | {"stages": [stage | change]}
            for change in ({"epochs": "1"}, {"parents": None}, {"key": []}, {"label": "../x"})
        ),
    ]
    for number, content in enumerate(foreign):
        (tmp_path / "plans" / f"{number:012x}.json").write_text(json.dumps(content))
    found, damaged = read_manifests(tmp_path)
    assert [(manifest.command, manifest.leaves) for manifest in found] == [("first", tuple(plan.leaves))]
    assert len(damaged) == len(foreign)
    assert all("not a plan of format 1" in error.reason for error in damaged)


def test_copies_have_cost_nothing(tmp_path):
    trained, copied, given_up = toy(number=100), toy(number=101), toy(number=102)
    rung = {"rows": [{"exit": "final", "val_accuracy": 1.0, "relus": 1, "macs": 1, "depth": 1}], "host": {"workers": 1}}
    with Store(root=tmp_path).lock() as store:
        write_manifest(store, manifest_of([trained, copied, given_up], "quick", "sweep"))
        store.save_rung(given_up, 2, rung | {"time_s": 0.0, "same_as": "else"})
    epochs = [{"epoch": 1, "time_s": 3600.0}]
    commit(tmp_path, [row()], of=trained, time_s=3600.0, history=epochs)
    commit(tmp_path, [row(d_th=0.2)], of=copied, time_s=0.0, history=epochs, metrics={"same_as": trained.key})
    (sweep,) = write_report([tmp_path], tmp_path / "out").sweeps
    total = sweep.lines.iloc[-1]
    assert [int(total[name]) for name in ("done", "stopped", "waiting", "epochs_trained")] == [2, 1, 0, 1]
    assert total["device_hours"] == 1
    assert sweep.growth["device_hours"].max() == 1


def test_plan_against_spent_with_failures_and_skips(tmp_path):
    parent, other = toy(number=100), toy(number=101)
    child, done = toy(number=102, parents={"p": parent}), toy(number=103, parents={"p": other})
    early = toy(number=104, parents={"p": other})
    with Store(root=tmp_path).lock() as store:
        write_manifest(store, manifest_of([child, done, early], "quick", "sweep"))
        rung = {"rows": [{"exit": "final", "val_accuracy": 1.0, "relus": 1, "macs": 1, "depth": 1}], "host": {"workers": 1}}
        store.write_error(early, "an old one")
        store.save_rung(early, 1, rung | {"time_s": 360.0})
        store.save_rung(early, 2, rung | {"time_s": 720.0})
        store.write_error(parent, "Traceback\nValueError: <script>alert(1)</script>")
    commit(tmp_path, [row()], of=done, time_s=3600.0, history=[{"epoch": 1}], host={"workers": 2, "gpu": "x", "gpus": 0.25})
    report = write_report([tmp_path], tmp_path / "out")
    (sweep,) = report.sweeps
    total = sweep.lines.iloc[-1]
    assert [int(total[name]) for name in ("planned", "done", "stopped", "failed", "skipped", "waiting")] == [5, 1, 1, 1, 1, 1]
    assert total["epochs_trained"] == 1 + 2
    assert total["device_hours"] == pytest.approx(0.5 + 0.2)
    assert sweep.failed[0][0] == parent.label and sweep.skipped[0][2] == parent.label
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page
    assert sweep.growth["device_hours"].tolist() == pytest.approx([0.5])


def test_device_seconds_count_workers_and_shares_of_gpus():
    assert device_seconds({"time_s": 10}) == 10
    assert device_seconds({"time_s": 10, "host": {"workers": 2}}) == 20
    assert device_seconds({"time_s": 10, "host": {"workers": 1, "gpu": "H", "gpus": 0.25}}) == 2.5
    assert device_seconds({"time_s": 10, "host": {"workers": "many"}}) == 10


def test_hypervolume_grows_with_what_is_finished(tmp_path):
    made = [toy(number=200 + n) for n in range(3)]
    with Store(root=tmp_path).lock() as store:
        write_manifest(store, manifest_of(made, "quick", "sweep"))
    for n, stage in enumerate(made):
        commit(tmp_path, [row(budget=n, relus=100 - 30 * n, val_accuracy=60.0 + n)], of=stage, finished=f"2026-01-0{n + 1}")
    (sweep,) = read_report([tmp_path]).sweeps
    grown = sweep.growth["hypervolume"].tolist()
    assert grown == sorted(grown) and grown[0] < grown[-1] < 1
