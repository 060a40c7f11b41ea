"""What is read of finished stages, and what is named and left out."""

import shutil

import pandas as pd
import pytest
from records import MASK_CONFIG, commit, record_of, row
from toy import toy

from analysis.records import configurations, read_runs
from analysis.report import read_report, write_report

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
    ({"of": toy(name="mask"), "metrics": {"layers": []}}, "its configuration is not a mask's (it has no data)"),
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


def test_a_stage_under_two_roots_counts_once(tmp_path):
    directory = commit(tmp_path / "a", [row()])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    commit(tmp_path / "b", [row(budget=7)])
    report = read_report([tmp_path / "a", tmp_path / "b"])
    assert len(report.table) == 2
    assert report.runs.roots[report.table["key"][0]] == (tmp_path / "b" if report.table["budget"][0] == 7 else tmp_path / "a")
    assert directory.exists()


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
