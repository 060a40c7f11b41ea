"""Gates by a limit of predicted seconds: what it is, which blocks it gates, and that the network that comes of it meets it."""

import dataclasses

import pytest
from quick import builder, run, weights

from raysp.data.sources import open_source
from raysp.engine.context import read_parents
from raysp.latency import known
from raysp.latency.known import Calibrations, packaged
from raysp.latency.prediction import predict
from raysp.methods.choices import Choice
from raysp.models.exits import FINAL
from raysp.models.files import load_model
from raysp.stages import time_limit as module
from raysp.stages.chain import ChainBuilder
from raysp.stages.finetune import canonical, without_gates
from raysp.stages.foreseen import foreseen
from raysp.stages.presets import PRESETS
from raysp.stages.time_limit import TimeLimit, gated_in_time, time_limit
from raysp.store.records import SAME_AS, Store

FITTED = {"gb_init": "least-squares", "gate_epochs": 0}


def limited(max_seconds, link="wan", build=None, **choices):
    choices = {"budget": 0.2, "mask_method": "taylor", **FITTED} | choices
    return (build or builder()).chain(Choice(max_seconds=max_seconds, link=link, **choices))


def test_a_limit_is_its_seconds_its_link_and_what_predicts():
    build = builder()
    leaves = [limited(*asked, build=build) for asked in ((20, "wan"), (15, "wan"), (20, "lan"), (20, None), (20, "400mbit,41ms"))]
    assert len({leaf.key for leaf in leaves}) == len(leaves)
    assert len({leaf.parents["gating"].key for leaf in leaves}) == 1
    assert limited(20, "400mbit,40ms").key == leaves[0].key, "a link is its numbers, not its name"
    assert leaves[0].config.to_json()["time_limit"] == {
        "max_seconds": 20.0, "bits_per_s": 4e8, "round_trip_s": 0.04, "calibration": packaged().digest
    }  # fmt: skip
    by_number = build.chain(Choice(budget=0.2, mask_method="taylor", gate_blocks=3, **FITTED))
    assert "time_limit" not in by_number.config.to_json()
    assert by_number.parents["gating"].key == leaves[0].parents["gating"].key
    assert "at most 20 s over wan" in leaves[0].note and "at most 20 s," in leaves[3].note


def test_other_calibrations_make_another_stage_and_a_machine_that_has_others_refuses(monkeypatch, tmp_path):
    before = limited(20)
    fewer = Calibrations(dict(list(packaged().named.items())[:-1]))
    own = limited(20, build=builder(calibrations=fewer)).config.time_limit
    assert own.calibration == fewer.digest != before.config.time_limit.calibration
    assert module.gated_costs(before.config.experiment, 3, fewer.digest), "what a user hands in is found by its digest"
    monkeypatch.setattr(known, "packaged", lambda: fewer)
    with pytest.raises(RuntimeError, match="are not those that the sweep was planned with; install the same raysp"):
        module.gated_costs(before.config.experiment, 3, before.config.time_limit.calibration)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"max_seconds": 0}, "max_seconds is 0; expected seconds above 0"),
        ({"max_seconds": -1}, "max_seconds is -1"),
        ({"max_seconds": 20, "link": "fast"}, "link 'fast'; expected lan, wan, or a bandwidth"),
        ({"max_seconds": 20, "gate_blocks": 3}, "gate_blocks 3 and time_limit at most 20 s over wan; expected one of them"),
        ({"max_seconds": 20, "d_th": 0.1}, r"d_th 0\.1 and time_limit at most 20 s over wan; expected one of them"),
    ],
)
def test_what_no_limit_can_be_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        limited(**choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits_per_s": None}, "expected both, or neither"),
        ({"round_trip_s": None}, "expected both, or neither"),
        ({"bits_per_s": 0.0}, "expected more than 0"),
        ({"round_trip_s": -1.0}, "at least 0"),
    ],
)
def test_a_link_that_is_none_is_refused(changes, message):
    limit = {"max_seconds": 1.0, "bits_per_s": 1e6, "round_trip_s": 0.1, "calibration": "c"}
    TimeLimit(**limit)
    with pytest.raises(ValueError, match=message):
        TimeLimit(**limit | changes)


def test_a_network_that_cannot_be_predicted_is_refused_before_anything_trains():
    name, one = next(iter(packaged().named.items()))
    linear = {shape: costs for shape, costs in one.layers.items() if not shape.startswith("conv")}
    own = Calibrations({name: dataclasses.replace(one, layers=linear)})
    with pytest.raises(ValueError, match=r"no calibration has conv .*: the seconds of resnet18 can't be predicted"):
        limited(20, build=builder(calibrations=own))


def test_a_network_without_a_block_to_gate_is_refused(tmp_path, monkeypatch):
    layers = "nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, num_classes)"
    (tmp_path / "single.py").write_text(f"from torch import nn\ndef build(num_classes):\n    return nn.Sequential({layers})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    build = ChainBuilder(PRESETS["quick"], open_source("digits", None, None).config, model="single:build")
    with pytest.raises(ValueError, match="max_seconds with single:build, which has no block that can be gated"):
        limited(20, build=build)


@pytest.fixture(scope="module", params=[("taylor", "pixel"), ("taylor", "channel"), ("senet", "pixel")], ids="-".join)
def measured(request, tmp_path_factory):
    """A results root with all that a fine-tuning needs; what makes the fine-tuning of a limit, and what is asked of it."""
    method, granularity = request.param
    root, build = tmp_path_factory.mktemp("runs"), builder(0.1)

    def leaf(max_seconds, **more):
        return limited(max_seconds, build=build, mask_method=method, granularity=granularity, **more)

    assert run(list(leaf(1000).parents.values()), root).ok
    return root, leaf


def chosen_by(root, leaf):
    config = leaf.config
    return gated_in_time(config.time_limit, config.experiment, read_parents(leaf, Store(root=root)), config.budget)


def test_the_network_that_comes_of_it_meets_the_limit_and_takes_what_was_foretold(measured):
    root, leaf = measured
    none, fastest = chosen_by(root, leaf(1000)), chosen_by(root, leaf(0.001))
    assert none.meets and none.blocks == () and not fastest.meets and len(fastest.blocks) == 8
    wanted = [leaf((none.seconds + fastest.seconds) / 2, ac_after=(3,)), leaf(0.001)]
    assert run(wanted, root).ok
    store = Store(root=root)
    for stage in wanted:
        found, record = chosen_by(root, stage), store.read(stage)
        assert record["metrics"]["gated_blocks"] == list(found.blocks)
        deployed = predict(load_model(store.directory(stage), FINAL), FINAL, packaged())
        assert deployed.modelled_s["wan"] == pytest.approx(found.seconds)
        row, limit = record["rows"][0], stage.config.time_limit
        assert (row["max_seconds"], row["link"], row["gate_blocks"], row["d_th"]) == (limit.max_seconds, "wan", None, None)
    assert 0 < len(chosen_by(root, wanted[0]).blocks) < 8
    assert chosen_by(root, wanted[0]).seconds <= wanted[0].config.time_limit.max_seconds


def test_limits_that_gate_the_same_blocks_come_to_the_same(measured):
    root, leaf = measured
    parents = read_parents(leaf(1000), Store(root=root))
    loose, fastest = chosen_by(root, leaf(1000)).seconds, chosen_by(root, leaf(0.001)).seconds
    limits = [fastest + step / 40 * (loose - fastest) for step in range(-1, 42)]
    stages = [leaf(limit) for limit in limits]
    choices = [chosen_by(root, stage).blocks for stage in stages]
    settled = [canonical(stage.config, parents) for stage in stages]
    assert 3 < len(set(choices)) < len(choices)
    for one, first in zip(choices, settled, strict=True):
        assert [one == other for other in choices] == [first == other for other in settled]
    plain = without_gates(dataclasses.replace(stages[-1].config, time_limit=None))
    assert choices[-1] == () and settled[-1] == plain
    assert choices[0] == choices[1] and settled[0].gate_blocks == 8, "all, as --gate-blocks 8 gates"
    losses = {block["block"]: block["divergence"] for block in parents["gating"].record["metrics"]["blocks"]}
    for blocks, config in zip(choices, settled, strict=True):
        least = set(sorted(losses, key=losses.get)[: len(blocks)])
        assert (config.gate_blocks == (len(blocks) or None)) == (set(blocks) == least)


def test_what_is_foreseen_of_a_limit_before_its_mask_is_known_comes_true(measured):
    root, leaf = measured
    loose, fastest = chosen_by(root, leaf(1000)).seconds, chosen_by(root, leaf(0.001)).seconds
    outlooks = set()
    for max_seconds in (0.001, *(fastest * step / 20 for step in range(5, 45)), 1000):
        stage = leaf(max_seconds)
        mask = stage.parents.get("ranking", stage.parents.get("mask"))
        ahead, found = foreseen(stage.config, stage.config.time_limit, mask.config), chosen_by(root, stage)
        assert ahead.least_s <= found.seconds * (1 + 1e-9) and found.seconds <= ahead.most_s * (1 + 1e-9)
        assert ahead.is_met in (None, found.meets)
        outlooks.add(ahead.is_met)
    assert outlooks == {True, False, None}
    assert ahead.most_s >= loose


def test_of_many_blocks_the_choices_that_the_search_can_end_with_are_foreseen(measured, monkeypatch):
    _, leaf = measured
    stage = leaf(12)
    mask = stage.parents.get("ranking", stage.parents.get("mask"))
    of_all = foreseen(stage.config, stage.config.time_limit, mask.config)
    monkeypatch.setattr("raysp.stages.foreseen.EXACT", 0)
    assert foreseen(stage.config, stage.config.time_limit, mask.config) == of_all, "here every block saves time"


def test_equal_gates_are_trained_once_and_each_row_says_what_was_asked(tmp_path):
    build = builder(0.1)
    leaves = [limited(0.001, build=build), limited(0.002, "lan", build=build)]
    leaves.append(build.chain(Choice(budget=0.2, mask_method="taylor", gate_blocks=8, **FITTED)))
    assert run(leaves, tmp_path).ok
    store = Store(root=tmp_path)
    records = [store.read(leaf) for leaf in leaves]
    assert sum(SAME_AS in record["metrics"] for record in records) == 2
    asked = [[record["rows"][0][name] for name in ("max_seconds", "link", "gate_blocks")] for record in records]
    assert asked == [[0.001, "wan", None], [0.002, "lan", None], [None, None, 8]]
    first, *others = (weights(tmp_path, leaf) for leaf in leaves)
    assert all(bool((first[name] == other[name]).all()) for other in others for name in first)


def test_without_a_link_the_seconds_are_the_machine_s_own():
    limit = time_limit(3.0, None, packaged())
    assert (limit.bits_per_s, limit.round_trip_s, limit.link) == (None, None, None)
    assert limit.seconds(2.0, 1e9, 100.0) == 2.0
    assert time_limit(3.0, "8kbit,0.5s", packaged()).seconds(2.0, 1000.0, 4.0) == 2.0 + 1.0 + 2.0
