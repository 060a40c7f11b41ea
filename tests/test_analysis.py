import shutil

import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from toy import toy

from analysis.figures import AXES
from analysis.pareto import pareto_front
from analysis.report import write_report
from analysis.results import COLUMNS
from raysp.store import Store

COLUMNS_COMPARED = ["val_accuracy", "relus", "macs", "depth"]
points = st.lists(st.tuples(*[st.integers(0, 4)] * 4), max_size=25)


@given(points)
def test_fronts_equal_brute_force_with_ties_and_duplicates(rows):
    table = pd.DataFrame(rows, columns=COLUMNS_COMPARED)
    front = pareto_front(table)
    expected = table[reference.nondominated(table.to_numpy())] if rows else table
    assert front.index.tolist() == expected.index.tolist()


def test_rows_with_missing_values_are_left_out():
    table = pd.DataFrame([[90, 1, 1, 1], [np.nan, 0, 0, 0], [95, 2, np.nan, 2]], columns=COLUMNS_COMPARED)
    assert pareto_front(table).index.tolist() == [0]


def row(**changes):
    plain = dict.fromkeys(COLUMNS, 1) | {"exit": "final", "mask_method": "senet", "ac_after": None, "gamma": "linear"}
    return plain | changes


def commit(root, number, rows):
    """A finished stage with these rows; returns its directory."""
    stage = toy(number=number)
    record = {"key": stage.key, "stage": stage.name, "config": {}, "metrics": {}, "history": [], "rows": rows, "time_s": 2}
    with Store(root=root).lock() as store:
        store.commit(stage, record, {})
    return store.directory(stage)


def test_a_report_of_records_with_a_damaged_one(tmp_path):
    for number in range(5):
        costs = {"relus": 100 * 10**number, "macs": 10**6 * (number + 1), "depth": 9 + number}
        directory = commit(tmp_path, number, [row(val_accuracy=80 + 3 * number, test_accuracy=80, **costs)])
    (directory / "record.json").write_text("{")
    shutil.copytree(directory, directory.with_name(directory.name + ".damaged-1"))
    report = write_report(tmp_path)
    assert [error.path.parent for error in report.damaged] == [directory]
    table = pd.read_csv(tmp_path / "results.csv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(pd.read_csv(tmp_path / "pareto.csv")) == 4
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert set(AXES) == {"relus", "macs", "depth"}


def test_models_of_different_data_sets_are_not_compared(tmp_path):
    commit(tmp_path, 0, [row(dataset="easy", val_accuracy=95, test_accuracy=95, relus=10)])
    commit(tmp_path, 1, [row(dataset="hard", val_accuracy=60, test_accuracy=60, relus=20)])
    assert write_report(tmp_path).front["dataset"].tolist() == ["easy", "hard"]


def test_records_from_before_there_were_such_choices_are_read(tmp_path):
    experiment = {"data": {"name": "digits", "num_classes": 10, "image_size": 8}, "model": "resnet18", "width": 4, "seed": 0}
    config = {"experiment": experiment, "method": "senet", "budget": 10, "recipe": {"epochs": 3}}
    mask, finetune = toy(number=1), toy(number=2)
    old_row = row(ac_after=3, val_accuracy=90, test_accuracy=90)
    del old_row["selection"], old_row["granularity"], old_row["gb_init"]
    with Store(root=tmp_path).lock() as store:
        plain = {"config": {}, "metrics": {}, "history": [], "rows": [old_row, old_row | {"ac_after": None}], "time_s": 2}
        store.commit(finetune, {**plain, "key": finetune.key, "stage": "finetune"}, {})
        layers = [{"layer": "stem_relu", "kept": 1, "size": 4}]
        new = {"config": config, "metrics": {"layers": layers}, "rows": []}
        store.commit(mask, {**plain, **new, "key": mask.key, "stage": "mask"}, {})
    write_report(tmp_path)
    table = pd.read_csv(tmp_path / "results.csv", dtype={"ac_after": str})
    assert table["ac_after"].fillna("-").tolist() == ["3", "-"]
    assert table["selection"].tolist() == ["val", "val"]
    assert len(pd.read_csv(tmp_path / "pareto.csv")) == 2
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert layers[["granularity", "selection", "d"]].to_numpy().tolist() == [["pixel", "val", 0.25]]


def test_models_selected_on_the_test_part_have_a_front_of_their_own(tmp_path):
    commit(tmp_path, 0, [row(selection="val", val_accuracy=80, test_accuracy=80, relus=20)])
    commit(tmp_path, 1, [row(selection="test", val_accuracy=90, test_accuracy=90, relus=10)])
    assert sorted(write_report(tmp_path).front["selection"]) == ["test", "val"]


@pytest.mark.parametrize("rows", [[], [{}], [row(val_accuracy=None)], [row(relus=0)], [row(relus=0), row(relus=5)]])
def test_a_report_of_little_does_not_fail(tmp_path, rows):
    commit(tmp_path, 0, rows)
    assert len(write_report(tmp_path).table) == len(rows)
