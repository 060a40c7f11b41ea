"""Seeds of one configuration as one point."""

import pandas as pd
from records import GATED, commit, row

from analysis.report import Question, read_report
from analysis.results import COLUMNS
from analysis.seeds import points_of


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


def test_points_of_an_empty_table():
    assert points_of(pd.DataFrame(columns=list(COLUMNS))).empty
