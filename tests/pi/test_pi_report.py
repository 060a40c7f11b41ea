"""Measurements of private inference in tables, fronts and the report."""

import json

import pandas as pd
import pytest
from records import finished, record_of, row
from toy import toy

from analysis.report import MEASURED, read_report, tables_of, write_report
from analysis.report.command import question_of
from analysis.report.flags import ReportFlags
from analysis.results import COLUMNS, MEASURED_PI
from raysp.pi.files import FORMAT, name_of
from raysp.store.records import Store


def test_what_was_measured_is_a_column_and_an_objective(tmp_path):
    slow, fast, _unmeasured = (finished(tmp_path, number) for number in range(3))
    slow(9.0, 2e7, predicted={"time_s": 9.9, "bytes": 2.01e7})
    fast(3.0, 1e7)
    report = write_report([tmp_path], tmp_path / "out", question_of(ReportFlags(runs=(), costs=("pi_time_s", "pi_bytes"))))
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert tuple(table.columns) == (*COLUMNS, *MEASURED_PI)
    assert table["pi_time_s"].tolist()[:2] == [9.0, 3.0]
    assert table["pi_bytes"].tolist()[:2] == [2e7, 1e7]
    assert table["pi_protocol"].tolist()[:2] == ["cheetah: real two-party run"] * 2
    assert table.loc[2, list(MEASURED_PI)].isna().all()
    assert report.front["pi_time_s"].tolist() == [3.0]
    (shown,) = tables_of(report)[MEASURED]
    assert {"9.9 (+10%)", "20.1M (+0.5%)"} <= {cell for cells in shown.cells for cell in cells}
    assert "PI protocol" in (tmp_path / "out" / "report.html").read_text()


def test_a_points_measurement_is_of_its_best_seed_that_was_measured(tmp_path):
    same = {"epochs": 7}
    stages = [toy(number=number) for number in range(2)]
    weights = {"bytes": 1, "sha256": "0"}
    with Store(root=tmp_path).lock() as store:
        for seed, stage in enumerate(stages):
            rows = [row(**same, seed=seed, val_accuracy=80.0 + seed, relus=100 + seed)]
            store.commit(stage, record_of(stage, rows), {"weights.safetensors": weights})
    for seed, stage in enumerate(stages):
        content = {"format": FORMAT, "exit": "final", "protocol": "cheetah", "weights": weights, "time_s": 3.0 + seed, "bytes": 5}
        (store.directory(stage) / name_of("final", "cheetah")).write_text(json.dumps(content))
        (point,) = read_report([tmp_path]).points.to_dict("records")
        assert (point["seeds"], point["relus"], point["pi_time_s"]) == (2, 101, 3.0 + seed)


def test_each_exit_has_its_own(tmp_path):
    measured = finished(tmp_path, 0, exits=("final", "ac3"))
    measured(3.0, 1e7, exit_name="ac3")
    table = read_report([tmp_path]).table.set_index("exit")
    assert table["pi_time_s"].to_dict() == pytest.approx({"final": float("nan"), "ac3": 3.0}, nan_ok=True)


def test_a_table_compares_one_protocol_and_the_report_shows_all(tmp_path):
    for number, protocols in enumerate((["cheetah", "semi2k"], ["semi2k"])):
        measured = finished(tmp_path, number)
        for protocol in protocols:
            measured(3.0 if protocol == "cheetah" else 1.0, 1e7, protocol=protocol)
    report = read_report([tmp_path])
    assert report.table["pi_time_s"].tolist() == pytest.approx([3.0, float("nan")], nan_ok=True)
    (shown,) = tables_of(report)[MEASURED]
    assert sorted(cells[2] for cells in shown.cells) == [
        "cheetah: real two-party run",
        *["semi2k: online phase, trusted dealer"] * 2,
    ]


def test_a_trusted_dealer_s_rows_say_so(tmp_path):
    finished(tmp_path, 0)(1.0, 1e6, protocol="semi2k")
    assert read_report([tmp_path]).table["pi_protocol"].tolist() == ["semi2k: online phase, trusted dealer"]


def test_a_measurement_of_other_weights_is_named_and_left_out(tmp_path):
    finished(tmp_path, 0)(1.0, 1e6, weights={"bytes": 2, "sha256": "other"})
    report = read_report([tmp_path])
    assert not set(MEASURED_PI) & set(report.table)
    assert [error.reason for error in report.damaged] == ["measured with other weights than these; measure again"]
