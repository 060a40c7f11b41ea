"""What a report writes, and what it compares with what."""

import shutil

import pandas as pd
import pytest
from records import FILES, GATED, commit, row

from analysis.report import FRONT, Question, read_report, tables_of, write_report
from analysis.report.answer import figures_of, found_tables
from analysis.results import COLUMNS


def test_a_report_of_records_with_a_damaged_one(tmp_path):
    for number in range(5):
        costs = {"relus": 100 * 10**number, "macs": 10**6 * (number + 1), "depth": 9 + number, "budget": number}
        directory = commit(tmp_path, [row(val_accuracy=80 + 3 * number, test_accuracy=80, **costs)])
    (directory / "record.json").write_text("{")
    shutil.copytree(directory, directory.with_name(directory.name + ".damaged-1"))
    out = tmp_path / "report"
    report = write_report([tmp_path], out)
    assert [error.path.parent for error in report.damaged] == [directory]
    table = pd.read_csv(out / "results.csv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(pd.read_csv(out / "pareto.csv")) == len(pd.read_parquet(out / "results.parquet")) == 4
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "pareto.svg").read_bytes().startswith(b"<?xml")
    assert {path.name for path in out.iterdir()} >= FILES
    assert directory.name in (out / "report.html").read_text()


@pytest.mark.parametrize("rows", [[], [{}], [row(val_accuracy=None)], [row(relus=0)], [row(relus=0), row(relus=5, exit="ac3")]])
def test_a_report_of_little_does_not_fail(tmp_path, rows):
    commit(tmp_path, rows)
    assert len(write_report([tmp_path], tmp_path / "out").table) == len(rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES


def test_equal_records_give_equal_files(tmp_path):
    commit(tmp_path, [row(**GATED, seed=1)])
    for out in ("a", "b"):
        write_report([tmp_path], tmp_path / out)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_what_qualifies_is_said_per_data_set(tmp_path):
    commit(tmp_path, [row(dataset="easy", val_accuracy=95, relus=10)])
    commit(tmp_path, [row(dataset="hard", val_accuracy=60, relus=20)])
    titles = [table.title for table in found_tables(read_report([tmp_path], Question(limits={"val_accuracy": 90.0})))]
    assert titles == [
        "1 qualify on easy, selected on val: val % at least 90",
        "None qualifies on hard, selected on val: val % at least 90",
    ]


def test_models_of_different_data_sets_are_not_compared(tmp_path):
    commit(tmp_path, [row(dataset="easy", val_accuracy=95, test_accuracy=95, relus=10)])
    commit(tmp_path, [row(dataset="hard", val_accuracy=60, test_accuracy=60, relus=20)])
    assert read_report([tmp_path]).front["dataset"].tolist() == ["easy", "hard"]


def test_models_selected_on_the_test_part_have_a_front_of_their_own(tmp_path):
    commit(tmp_path, [row(selection="val", val_accuracy=80, test_accuracy=80, relus=20)])
    commit(tmp_path, [row(selection="test", val_accuracy=90, test_accuracy=90, relus=10)])
    assert sorted(read_report([tmp_path]).front["selection"]) == ["test", "val"]


@pytest.mark.parametrize(
    ("selection", "question", "flatters"), [("val", "val", False), ("test", "val", True), ("val", "test", True)]
)
def test_fronts_say_what_was_selected_on_the_test_part(tmp_path, selection, question, flatters):
    commit(tmp_path, [row(selection=selection)])
    report = read_report([tmp_path], Question(accuracy=f"{question}_accuracy"))
    (front, _) = tables_of(report)[FRONT]
    assert ("flatter" in front.note) == flatters


def test_models_with_and_without_an_auxiliary_classifier_are_told_apart(tmp_path):
    commit(tmp_path, [row(relus=5)])
    commit(tmp_path, [row(ac_after="3", relus=9, val_accuracy=85.0)])
    (front, _) = tables_of(read_report([tmp_path]))[FRONT]
    assert {line[front.headings.index("AC after")] for line in front.cells} == {"-", "3"}


def test_a_fronts_line_runs_through_what_is_attained(tmp_path):
    commit(tmp_path, [row(relus=5, val_accuracy=70.0)])
    commit(tmp_path, [row(relus=9, val_accuracy=85.0, dataset="digits")])
    figure = figures_of(read_report([tmp_path]))["pareto"][1]
    (front,) = [line for line in figure.axes[0].lines if line.get_label() == "front"]
    assert front.get_drawstyle() == "steps-post"


def test_selection_by_test_accuracy_is_a_question(tmp_path):
    commit(tmp_path, [row(val_accuracy=90, test_accuracy=70)])
    commit(tmp_path, [row(budget=7, val_accuracy=80, test_accuracy=75)])
    assert read_report([tmp_path]).front["budget"].tolist() == [100]
    assert read_report([tmp_path], Question(accuracy="test_accuracy")).front["budget"].tolist() == [7]
