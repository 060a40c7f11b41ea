import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from records import FILES, GATED, MASK_CONFIG, commit, record_of, row
from toy import toy

from analysis.classes import changes_of
from analysis.published import published_beside
from analysis.records import configurations, read_runs
from analysis.report import FRONT, Question, read_report, tables_of, write_report
from analysis.report.answer import figures_of, found_tables
from analysis.results import COLUMNS, ESTIMATED, results_table
from analysis.seeds import points_of
from analysis.tables import Table

# ---- what is read


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


FOREIGN = [
    ({"rows": [row(val_accuracy="high")]}, "its row has 'high' for 'val_accuracy'; expected percent"),
    ({"rows": [row(relus=-1)]}, "its row has -1 for 'relus'; expected a whole number of at least 0"),
    ({"rows": [row(relus=10**400)]}, "for 'relus'; expected a whole number"),
    ({"rows": [row(macs=1e300)]}, "for 'macs'; expected a whole number"),
    ({"rows": [row(budget=[1])]}, "its row has [1] for 'budget'"),
    ({"rows": [row(kernel_size="three")]}, "its row has 'three' for 'kernel_size'"),
    ({"rows": [row(d_th="0.1")]}, "its row has '0.1' for 'd_th'; expected a number"),
    ({"rows": [row(dataset=5)]}, "its row has 5 for 'dataset'; expected a line of text"),
    ({"rows": [row(dataset="\udc80")]}, "for 'dataset'; expected a line of text"),
    ({"rows": [row(model="a\nb")]}, "for 'model'; expected a line of text"),
    ({"rows": [row(selection=None)]}, "its row has None for 'selection'; expected val or test"),
    ({"rows": [row(ac_after={})]}, "its row has {} for 'ac_after'; expected stages"),
    ({"parents": {"mask": "x"}}, "its parents are not objects with a 'key'"),
    ({"labels": {"preset": 5}}, "its preset is no line of text"),
    ({"time_s": 10**400}, "expected seconds"),
    ({"rows": ["row"]}, "not lists of objects"),
    ({"time_s": None}, "its time_s is None; expected seconds"),
    ({"labels": "mine"}, "its 'labels' is str"),
    ({"stage": "other"}, "belongs to other-"),
    ({"metrics": {"test_by_class": {"images": [1], "percent": {"final": ["all"]}}}}, "no percentage for each of 1 classes"),
    ({"metrics": {"classes": ["a", 5]}}, "its 'classes' are not lines of text"),
    (
        {"of": toy(name="mask"), "config": MASK_CONFIG, "metrics": {"layers": [{"layer": "a"}]}},
        "its layers are not ReLU layers",
    ),
    (
        {"of": toy(name="mask"), "config": MASK_CONFIG, "metrics": {"layers": [{"layer": "a", "kept": 9, "size": 8}]}},
        "its layers are not ReLU layers",
    ),
    ({"of": toy(name="mask"), "config": MASK_CONFIG | {"budget": "x"}}, "its configuration has 'x' for 'budget'"),
    ({"of": toy(name="mask"), "config": MASK_CONFIG | {"method": []}}, "its configuration has [] for 'mask_method'"),
    ({"of": toy(name="mask"), "metrics": {"layers": []}}, "its configuration is not a mask's (KeyError('data'))"),
]


@pytest.mark.parametrize(("change", "reason"), FOREIGN)
def test_foreign_records_are_named_and_left_out(tmp_path, change, reason):
    good = commit(tmp_path, [row()])
    bad = commit(tmp_path, **change)
    runs = read_runs([tmp_path])
    assert [record["key"][:12] for record in runs.records] == [good.name[-12:]]
    assert [damage.path.parent for damage in runs.damaged] == [bad]
    assert reason in runs.damaged[0].reason
    assert read_report([tmp_path]).points["exit"].tolist() == ["final"]


def test_a_report_is_written_beside_foreign_records_of_all_kinds(tmp_path):
    commit(tmp_path, [row()])
    own = [
        change | {"of": toy(number=n, name=change["of"].name)} if "of" in change else change
        for n, (change, _) in enumerate(FOREIGN)
    ]
    bad = [commit(tmp_path, **change) for change in own]
    report = write_report([tmp_path], tmp_path / "out")
    assert report.points["exit"].tolist() == ["final"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(directory.name in page for directory in bad)


def test_a_record_with_a_number_that_json_lacks_is_named(tmp_path):
    commit(tmp_path, [row()])
    bad = commit(tmp_path, [row(budget=7)])
    path = bad / "record.json"
    path.write_text(path.read_text().replace('"budget": 7', '"budget": NaN'))
    runs = read_runs([tmp_path])
    assert len(runs.records) == 1
    assert "no record of ours" in str(runs.damaged[0])


def test_what_qualifies_is_said_per_data_set(tmp_path):
    commit(tmp_path, [row(dataset="easy", val_accuracy=95, relus=10)])
    commit(tmp_path, [row(dataset="hard", val_accuracy=60, relus=20)])
    titles = [table.title for table in found_tables(read_report([tmp_path], Question(limits={"val_accuracy": 90.0})))]
    assert titles == [
        "1 qualify on easy, selected on val: val % at least 90",
        "None qualifies on hard, selected on val: val % at least 90",
    ]


def test_a_stage_under_two_roots_counts_once(tmp_path):
    directory = commit(tmp_path / "a", [row()])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    commit(tmp_path / "b", [row(budget=7)])
    report = read_report([tmp_path / "a", tmp_path / "b"])
    assert len(report.table) == 2
    assert report.runs.roots[report.table["key"][0]] == (tmp_path / "b" if report.table["budget"][0] == 7 else tmp_path / "a")
    assert directory.exists()


def test_models_of_different_data_sets_are_not_compared(tmp_path):
    commit(tmp_path, [row(dataset="easy", val_accuracy=95, test_accuracy=95, relus=10)])
    commit(tmp_path, [row(dataset="hard", val_accuracy=60, test_accuracy=60, relus=20)])
    assert read_report([tmp_path]).front["dataset"].tolist() == ["easy", "hard"]


def test_models_selected_on_the_test_part_have_a_front_of_their_own(tmp_path):
    commit(tmp_path, [row(selection="val", val_accuracy=80, test_accuracy=80, relus=20)])
    commit(tmp_path, [row(selection="test", val_accuracy=90, test_accuracy=90, relus=10)])
    assert sorted(read_report([tmp_path]).front["selection"]) == ["test", "val"]


def test_records_from_before_there_were_such_choices_are_read(tmp_path):
    old_row = row(ac_after=3, val_accuracy=90, test_accuracy=90)
    del old_row["selection"], old_row["granularity"], old_row["gb_init"], old_row["ac_init"], old_row["ac_end"]
    commit(tmp_path, [old_row, old_row | {"ac_after": None, "exit": "ac3"}])
    layers = [{"layer": "stem_relu", "kept": 1, "size": 4}]
    commit(tmp_path, of=toy(name="mask", number=1), config=MASK_CONFIG, metrics={"layers": layers})
    write_report([tmp_path], tmp_path)
    table = pd.read_csv(tmp_path / "results.csv", dtype={"ac_after": str})
    assert sorted(table["ac_after"].fillna("-")) == ["-", "3"]
    assert table["selection"].tolist() == ["val", "val"]
    assert sorted(table["ac_init"].fillna("-")) == ["-", "random"]
    assert sorted(table["ac_end"].fillna("-")) == ["-", "trained"]
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert layers[["granularity", "selection", "d"]].to_numpy().tolist() == [["pixel", "val", 0.25]]


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


def test_estimates_are_the_published_constants(tmp_path):
    layers = {"final": [{"relus": 60}, {"relus": 40}, {"relus": 0}]}
    commit(tmp_path, [row(relus=100, macs=10**6)], metrics={"costs": layers})
    found = read_report([tmp_path]).table.iloc[0]
    online = 100 * (18.25e-6 + 3.57e-6) + 1e6 * 0.78e-9
    assert found["est_delphi_online_lan_s"] == pytest.approx(online)
    assert found["est_delphi_online_wan_s"] == pytest.approx(online + 8 * 118_400 / 400e6 + 3 * 0.04)
    assert found["est_delphi_offline_lan_s"] == pytest.approx(100 * 38.1e-6 + 0.52)
    assert found["est_delphi_online_bytes"] == 118_400
    assert found["est_delphi_offline_bytes"] == 1_908_800
    assert all(name.startswith("est_") for name in ESTIMATED)


# ---- classes


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


def test_seeds_share_the_mean_of_their_worst_classes(tmp_path):
    for seed, worst in enumerate((50.0, 60.0)):
        commit(tmp_path, [row(seed=seed)], metrics=by_class(90.0, worst))
    (point,) = read_report([tmp_path]).points.to_dict("records")
    assert (point["worst_class_accuracy"], point["class_spread"]) == (55.0, 17.5)
    assert point["worst_class_accuracy_std"] == pytest.approx(50**0.5)


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


# ---- seeds


def test_seeds_of_one_configuration_are_one_point_with_its_spread(tmp_path):
    for seed, accuracy in enumerate((80.0, 84.0, 88.0)):
        costs = {"relus": 100 + seed, "val_accuracy": accuracy, "test_accuracy": accuracy - 1}
        commit(tmp_path, [row(seed=seed, **costs), row(seed=seed, exit="ac3", **costs | {"relus": 50})])
    commit(tmp_path, [row(seed=0, budget=7)])
    report = read_report([tmp_path])
    assert len(report.table) == 7 and len(report.points) == 3
    point = report.points[(report.points["budget"] == 100) & (report.points["exit"] == "final")].iloc[0]
    assert (point["seeds"], point["val_accuracy"], point["val_accuracy_std"]) == (3, 84.0, 4.0)
    assert point["seed_list"] == (0, 1, 2)
    assert point["key"] == point["key_list"][2], "the best seed's model is the one to deploy"
    assert point["relus"] == 102, "costs are that model's"
    alone = report.points[report.points["budget"] == 7].iloc[0]
    assert alone["seeds"] == 1 and pd.isna(alone["val_accuracy_std"])


def test_seeds_that_came_to_other_networks_are_points_of_their_own(tmp_path):
    seeds = ((16, 900, 88.0), (12, 600, 80.0), (12, 600, 82.0))
    keys = [
        commit(tmp_path, [row(seed=seed, **GATED, depth=depth, macs=macs, val_accuracy=accuracy)]).name
        for seed, (depth, macs, accuracy) in enumerate(seeds)
    ]
    report = read_report([tmp_path], Question(limits={"depth": 14.0, "val_accuracy": 81.0}))
    assert sorted(report.points[["depth", "seeds", "val_accuracy"]].to_numpy().tolist()) == [[12, 2, 81.0], [16, 1, 88.0]]
    ((_, found),) = report.found.items()
    (chosen,) = found.rows.to_dict("records")
    assert keys[2].endswith(chosen["key"][:12]), "a model that meets the limits itself"


def test_a_row_names_the_network_that_it_started_from():
    base = record_of(toy(name="baseline"), [row(mask_method="none")])
    tuned = record_of(toy(name="finetune"), [row()], parents={"baseline": {"key": base["key"]}})
    orphan = record_of(toy(name="finetune", number=1), [row(budget=7)], parents={"baseline": {"key": "elsewhere"}})
    table = results_table([base, tuned, orphan]).set_index("key")
    assert table.loc[tuned["key"], "baseline"] == table.loc[base["key"], "baseline"] == table.loc[base["key"], "configuration"]
    assert table.loc[orphan["key"], "baseline"] == "elsewhere"


@pytest.mark.parametrize("digits", ["482811010285", "12345e678901", "000000000017", "1e0000000000", "4e70ab912345"])
def test_no_program_takes_the_name_of_a_configuration_for_a_number(digits, monkeypatch):
    base = record_of(toy(name="baseline"), [row(mask_method="none")])
    tuned = record_of(toy(name="finetune"), [row()], parents={"baseline": {"key": base["key"]}})
    monkeypatch.setattr("analysis.results.configurations", lambda records: dict.fromkeys((base["key"], tuned["key"]), digits))
    written = results_table([base, tuned]).to_csv(index=False)
    read = [pd.read_csv(io.StringIO("\n".join(written.splitlines()[:: n + 1][:2]))) for n in (0, 1)]  # a row alone, each time
    for alone in read:
        assert alone["configuration"].tolist() == alone["baseline"].tolist() == [f"c-{digits}"]
    assert len(read[0].merge(read[1], left_on="baseline", right_on="configuration")) == 1


def test_published_curves_stand_beside_the_papers_network_alone(tmp_path):
    usual = {"dataset": "cifar100", "model": "resnet18", "image_size": 32}
    commit(tmp_path, [row(**usual, width=64, selection="test")])
    commit(tmp_path, [row(**usual, width=16, selection="val")])
    found = published_beside(read_report([tmp_path]).points)
    assert list(found) == [("cifar100", "test")] and "SENet" in found["cifar100", "test"]


def test_a_configuration_is_told_by_its_parents_too():
    def made(name, seed, epochs, **more):
        return record_of(toy(name=name, number=seed, epochs=epochs), config={"experiment": {"seed": seed}, "name": name}, **more)

    seeds = ((0, 1), (1, 1), (0, 2), (1, 2))
    masks = {(s, d): made("mask", s, d, metrics={}) | {"version": d} for s, d in seeds}
    tunes = {(s, d): made("finetune", s, d, parents={"mask": {"key": masks[s, d]["key"]}}) for s, d in seeds}
    found = configurations([*masks.values(), *tunes.values()])
    assert found[tunes[0, 1]["key"]] == found[tunes[1, 1]["key"]] != found[tunes[0, 2]["key"]]
    orphans = configurations(list(tunes.values()))
    assert len({orphans[tune["key"]] for tune in tunes.values()}) == 4, "without the parents' records nothing is taken for equal"


def test_points_of_an_empty_table():
    assert points_of(pd.DataFrame(columns=list(COLUMNS))).empty


# ---- tables and pictures


def test_names_in_tables_stay_names():
    table = Table(title="<b>", headings=["a"], cells=[["x|y_z <i> $&"]], note="a*b [c](d)")
    assert "<b>" not in table.markdown() and "&lt;b&gt;" in table.markdown()
    assert "x\\|y\\_z &lt;i&gt; $&amp;" in table.markdown() and "a\\*b \\[c\\](d)" in table.markdown()
    assert "x|y\\_z" in table.latex() and "\\$\\&" in table.latex() and "a*b [c](d)" in table.latex()


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


def test_raysp_does_not_import_analysis():
    for path in (Path(__file__).parents[2] / "raysp").rglob("*.py"):
        assert "analysis" not in [
            line.split()[1].split(".")[0] for line in path.read_text().splitlines() if line.startswith(("import ", "from "))
        ]
