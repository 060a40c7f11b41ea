"""What sweeps weigh models by: costs that are counted, and costs that are predicted, by whichever calibrations."""

import json
import math
from types import SimpleNamespace

import pytest
from quick import builder, run

from raysp.latency.known import Calibrations, packaged
from raysp.latency.links import WAN, parse_link
from raysp.latency.recorded import predict_records
from raysp.methods.choices import Choice
from raysp.models.files import load_model
from raysp.planning.halving import Halving
from raysp.planning.proposals import SearchQueue, objectives_of
from raysp.planning.weighing import WEIGHABLE, Weighing
from raysp.stages.predictable import largest
from raysp.store.figures import COSTS, PREDICTED, check_rows
from raysp.store.records import Store

ALL = Weighing(costs=WEIGHABLE, link=parse_link("8mbit,50ms"))


def no_network(record):
    raise AssertionError


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A race by predicted costs: two configurations, of which one is given up at the first rung."""
    root = tmp_path_factory.mktemp("race")
    build = builder(0.5)
    leaves = [build.chain(Choice(budget=b, mask_method="frozen", ac_after=(2,))) for b in (0.1, 0.4)]
    outcome = run(leaves, root, stopping="pareto", weighing=ALL)
    return root, leaves, outcome


def test_a_network_in_training_is_weighed_as_its_record_and_its_report(stopped):
    root, leaves, _ = stopped
    store = Store(root=root)
    leaf = next(leaf for leaf in leaves if store.read(leaf))
    record = store.read(leaf)
    rows = ALL.of_record(record, no_network)
    found = predict_records([record], packaged(), no_network).rows
    for row in rows:
        told, values = found[record["key"], row["exit"]].costs, ALL.values(row)
        assert values["pred_time_s"] == pytest.approx(told.time_s) and values["pred_bytes"] == pytest.approx(told.bytes)
        assert values["pred_wan_s"] == pytest.approx(
            WAN.modelled_s(time_s=told.time_s, num_bytes=told.bytes, round_trips=told.round_trips)
        )
        assert values["pred_link_s"] == pytest.approx(told.time_s + told.bytes / 1e6 + 0.05 * told.round_trips)
        of_network = ALL.of_network(load_model(store.directory(leaf)))[row["exit"]]
        assert {name: of_network[name] for name in COSTS} == {name: row[name] for name in COSTS}
        assert of_network[PREDICTED] == pytest.approx(row[PREDICTED])
    assert {row["exit"] for row in rows} == {"final", "ac2"}


def test_rungs_keep_what_was_predicted_and_by_what(stopped):
    root, leaves, outcome = stopped
    assert len(outcome.stopped) == 1
    (given_up,) = (leaf for leaf in leaves if leaf.key in outcome.stopped)
    rungs = Store(root=root).read_rungs(given_up)
    assert rungs and all(ALL.knows(rung["rows"]) for rung in rungs.values())
    others = Weighing(costs=("pred_bytes",), calibrations=Calibrations(dict(list(packaged().named.items())[:1])))
    assert not any(others.knows(rung["rows"]) for rung in rungs.values()), "another calibration says something else"


def test_a_race_that_was_weighed_otherwise_is_told_anew_without_training(tmp_path):
    build = builder(0.5)
    leaves = [build.chain(Choice(budget=b, mask_method="frozen")) for b in (0.1, 0.4)]
    first = run(leaves, tmp_path, stopping="pareto")
    store = Store(root=tmp_path)
    (given_up,) = (leaf for leaf in leaves if leaf.key in first.stopped)
    plain = json.dumps(store.read_rungs(given_up))
    assert PREDICTED not in plain
    checkpoint = (store.directory(given_up) / "checkpoint.safetensors").read_bytes()
    again = run(leaves, tmp_path, stopping="pareto", weighing=ALL)
    assert again.stopped == first.stopped and not again.failed
    assert PREDICTED in json.dumps(store.read_rungs(given_up))
    assert (store.directory(given_up) / "checkpoint.safetensors").read_bytes() == checkpoint


def test_halving_goes_by_the_weighed_costs():
    """Of two equally accurate models the one of fewer ReLUs, or the one of fewer predicted bytes."""
    build = builder()
    leaves = [build.chain(Choice(budget=b, mask_method="frozen")) for b in (0.1, 0.4)]

    def row(relus, num_bytes):
        told = {"time_s": 1.0, "bytes": num_bytes, "round_trips": 1.0, "calibration": packaged().digest}
        return {"exit": "final", "val_accuracy": 50.0, "relus": relus, "macs": 1, "depth": 1, PREDICTED: told}

    for weighing, loser in ((Weighing(), 1), (Weighing(costs=("pred_bytes",)), 0)):
        halving = Halving(leaves, weighing=weighing)
        for leaf, figures in zip(leaves, (row(1, 2e6), row(2, 1e6)), strict=True):
            halving.arrived(leaf.key, halving.until(leaf.key), [figures])
        halving.settle()
        assert [halving.stopped_at(leaf.key) is not None for leaf in leaves] == [loser == 0, loser == 1]


def test_a_search_is_told_the_weighed_costs_and_keeps_proposals_of_its_own():
    told = {"time_s": 2.0, "bytes": 1e6, "round_trips": 10.0, "calibration": packaged().digest}
    row = {"exit": "final", "val_accuracy": 80.0, "relus": 5, "macs": 5, "depth": 5, PREDICTED: told}
    weighing = Weighing(costs=("pred_time_s", "pred_bytes"))
    found = objectives_of([row], {"pred_time_s": 4.0, "pred_bytes": 1e6}, weighing)
    assert set(found) == {"val_accuracy", "pred_time_s", "pred_bytes", "score"}
    assert found["score"] == pytest.approx(0.8 * (1 - 2 / 4.4) * (1 - 1 / 1.1))
    most = largest(builder().network, weighing)
    assert all(math.isfinite(value) and value > 0 for value in most.values()) and tuple(most) == weighing.costs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"costs": ("relu",)}, "cost 'relu'; expected of: relus, macs, depth, pred_time_s"),
        ({"costs": ()}, "costs \\(none\\); expected one or more"),
        ({"costs": ("relus", "relus")}, "each once"),
        ({"costs": ("pred_link_s",)}, "cost pred_link_s without a link"),
    ],
)
def test_what_cannot_be_weighed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Weighing(**arguments)


@pytest.mark.parametrize("told", [{"time_s": 1.0}, {"time_s": math.nan, "bytes": 1.0, "round_trips": 1.0}])
def test_a_damaged_prediction_in_a_rung_is_found(told):
    row = {"exit": "final", "val_accuracy": 1.0, "relus": 1, "macs": 1, "depth": 1, PREDICTED: told}
    with pytest.raises((ValueError, KeyError)):
        check_rows([row])


def test_a_proposal_that_cannot_be_weighed_counts_as_failed_and_is_said(tmp_path):
    said = []
    queue = SearchQueue.__new__(SearchQueue)
    queue._search = SimpleNamespace(weighing=Weighing(costs=("pred_bytes",)))
    queue._outline, queue._progress = no_network, SimpleNamespace(say=said.append)
    record = {"stage": "finetune", "key": "0" * 64, "rows": [{"exit": "final"}], "metrics": {}, "config": {}}
    assert queue._weighed(record) == () and "pred_bytes can't be predicted" in said[0]
