"""Accuracies by class: columns, costs, and what models lose of them."""

import pandas as pd
import pytest
from records import commit, row
from toy import toy

from analysis.classes import changes_of
from analysis.report import FRONT, Question, read_report, tables_of, write_report
from analysis.report.answer import figures_of


def by_class(*percent, images=50, exits=("final",), **more):
    images = [0 if value is None else images for value in percent]
    return {"test_by_class": {"images": images, "percent": {name: list(percent) for name in exits}}, **more}


def of_classes(root, number, seed, before, after, **columns):
    """A baseline and a model trained from it, with these accuracies by class."""
    base, student = toy(name="baseline", number=2 * number), toy(name="finetune", number=2 * number + 1)
    first = row(mask_method="none", relus=9000, val_accuracy=90.0, seed=seed)
    commit(root, [first], of=base, metrics=by_class(*before, classes=["cat", "none", "dog", "owl"]))
    parents = {"baseline": {"stage": "baseline", "key": base.key}}
    commit(root, [row(seed=seed, **columns)], of=student, metrics=by_class(*after), parents=parents)


def test_classes_are_columns_and_empty_for_records_of_before(tmp_path):
    commit(tmp_path, [row(), row(exit="ac3", relus=9)], metrics=by_class(90.0, None, 60.0, 90.0, exits=("final", "ac3")))
    commit(tmp_path, [row(budget=7)])
    report = write_report([tmp_path], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["budget", "exit"])[["worst_class_accuracy", "class_spread"]]
    assert table.loc[100].to_numpy().tolist() == [[60.0, 14.142]] * 2
    assert table.loc[7].isna().all(axis=None)
    assert "worst class %" in tables_of(report)[FRONT][0].headings
    assert pd.read_parquet(tmp_path / "out" / "results.parquet")["class_spread"].notna().sum() == 2
    (tmp_path / "old").mkdir()
    commit(tmp_path / "old", [row()])
    old = read_report([tmp_path / "old"])
    assert "worst class %" not in tables_of(old)[FRONT][0].headings and "classes" not in figures_of(old)
    with pytest.raises(ValueError, match="no model here has class_spread"):
        read_report([tmp_path / "old"], Question(costs=("relus", "class_spread")))


def test_models_are_compared_by_their_worst_class(tmp_path):
    for number, (relus, worst) in enumerate([(10, 50.0), (20, 70.0), (30, 60.0)]):
        commit(tmp_path, [row(budget=number, relus=relus, val_accuracy=80.0)], metrics=by_class(99.0, worst))
    question = Question(costs=("relus", "worst_class_accuracy"), limits={"worst_class_accuracy": 60.0})
    report = read_report([tmp_path], question)
    assert sorted(report.front["relus"]) == [10, 20]
    assert [sorted(found.rows["relus"]) for found in report.found.values()] == [[20, 30]]


def test_what_a_class_lost_is_against_the_baseline_of_its_own_seed(tmp_path):
    of_classes(tmp_path, 0, 0, (90.0, None, 80.0, 70.0), (80.0, None, 82.0, 50.0))
    of_classes(tmp_path, 1, 1, (100.0, None, 90.0, 60.0), (80.0, None, 94.0, 60.0))
    of_classes(tmp_path, 2, 0, (90.0, None, 80.0, 70.0), (90.0, None, 80.0), budget=7)  # not the same classes
    report = read_report([tmp_path])
    (change,) = changes_of(report.points, report.front, {}, report.runs.records, report.question.objectives)
    assert change.names == ["cat", "owl", "dog"], "those that lost most first; the class without images is left out"
    assert change.points == [-15.0, -10.0, 3.0]
    assert change.mean == pytest.approx(-22 / 3) and change.image_points == 2.0
    assert "classes" in figures_of(report)


def test_a_figure_has_room_for_six_models_of_a_group_and_the_answer_is_among_them(tmp_path):
    for number in range(12):
        figures = {"relus": 100 * (number + 1), "val_accuracy": 60.0 + number, "budget": number}
        of_classes(tmp_path, number, 0, (90.0, None, 80.0, 70.0), (80.0, None, 82.0, 50.0), **figures)
    report = read_report([tmp_path], Question(limits={"relus": 500.0}))
    arguments = (report.points, report.front, report.found, report.runs.records, report.question.objectives)
    shown = changes_of(*arguments)
    relus = [change.point["relus"] for change in shown]
    assert len(relus) == 6 and relus == sorted(relus, reverse=True) and {relus[0], relus[-1]} == {1200, 100}
    assert [change.point["relus"] for change in shown if change.role == "best that qualifies"] == [500]


def test_seeds_share_the_mean_of_their_worst_classes(tmp_path):
    for seed, worst in enumerate((50.0, 60.0)):
        commit(tmp_path, [row(seed=seed)], metrics=by_class(90.0, worst))
    (point,) = read_report([tmp_path]).points.to_dict("records")
    assert (point["worst_class_accuracy"], point["class_spread"]) == (55.0, 17.5)
    assert point["worst_class_accuracy_std"] == pytest.approx(50**0.5)
