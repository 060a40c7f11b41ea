"""Thresholds that gate the same blocks: what they come to, and that they are trained once."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from quick import builder, run, weights

from raysp.engine.context import Parent, read_parents
from raysp.methods.choices import Choice
from raysp.methods.positions import layer_mask
from raysp.methods.ranking import PREFIX, RankedLayers
from raysp.stages import gates
from raysp.stages.finetune import canonical
from raysp.stages.student import grow_shallow_branches, share_out_rest, start_student
from raysp.store.records import SAME_AS, Store


def masked(densities):
    """A finished mask whose layers keep these shares of their positions, in turn."""
    network = builder().baseline(0).config.experiment.build("test")
    for number, layer in enumerate(network.relu_layers()):
        count = round(densities[number % len(densities)] * layer.relu.size)
        layer.relu.set_mask(layer_mask(torch.rand(layer.relu.shape), count, "pixel"))
    return Parent(record={"key": "mask", **described(network)}, tensors=network.state_dict)


def described(network):
    layers = [{"layer": l.name, "kept": l.relu.kept, "size": l.relu.size} for l in network.relu_layers()]
    return {"metrics": {"layers": layers}, "config": {"method": "any", "granularity": "pixel"}}


def ranked(granularity, seed=0):
    """A finished ranking in random order; its tensors are counted."""
    torch.manual_seed(seed)
    network = builder().baseline(0).config.experiment.build("test")
    shapes = [l.relu.shape if granularity == "pixel" else (l.relu.shape[0], 1, 1) for l in network.relu_layers()]
    order = torch.randperm(sum(torch.Size(shape).numel() for shape in shapes), dtype=torch.int32)
    parts = order.split([torch.Size(shape).numel() for shape in shapes])
    tensors = network.state_dict() | {
        PREFIX + layer.name: part.view(shape) for layer, part, shape in zip(network.relu_layers(), parts, shapes, strict=True)
    }
    read = []

    def load():
        read.append(1)
        return dict(tensors)

    return Parent(record={"key": f"{granularity} {seed}", **described(network)}, tensors=load), read


def config_of(**choices):
    return builder().chain(Choice(budget=0.2, **choices)).config


def gated_by(config, parents):
    """The blocks that a fine-tuning would gate."""
    student = config.experiment.build("test")
    start_student(student, SimpleNamespace(parents=parents), config.weights, config.budget)
    return grow_shallow_branches(student, config.d_th, config.kernel_size)


THRESHOLDS = (0.0, 0.05, 0.15, 0.19, 0.2, 0.3, 0.55, 1.0)


@pytest.mark.parametrize("of", ["mask", "pixel", "channel"])
def test_configurations_come_to_the_same_where_they_gate_the_same_blocks(of):
    if of == "mask":
        parents, configs = {"mask": masked((0.1, 0.2, 0.5, 0.3, 0.6))}, [config_of(d_th=d_th) for d_th in THRESHOLDS]
    else:
        parents = {"ranking": ranked(of)[0]}
        configs = [config_of(d_th=d_th, mask_method="taylor", weights="continue", granularity=of) for d_th in THRESHOLDS]
    gated = [tuple(gated_by(config, parents)) for config in configs]
    settled = [canonical(config, parents) for config in configs]
    assert 1 < len(set(gated)) < len(gated)
    for one, first in zip(gated, settled, strict=True):
        for other, second in zip(gated, settled, strict=True):
            assert (one == other) == (first == second)
        assert tuple(gated_by(first, parents)) == one and canonical(first, parents) == first


def test_where_none_is_gated_it_canonical_the_one_without_gates():
    parents = {"mask": masked((0.5,))}
    some = {"gb_init": "least-squares", "kernel_size": 5, "gamma": "cosine", "gate_epochs": 3, "ac_after": (3,)}
    build = builder(1.0)
    gated, plain = (build.chain(Choice(budget=0.2, d_th=d_th, **some)).config for d_th in (0.1, None))
    assert gated != plain and canonical(gated, parents) == plain == canonical(plain, {})
    assert canonical(dataclasses.replace(gated, d_th=0.5), parents).gb_init == "least-squares"


def test_a_ranking_is_read_once_for_all_its_budgets_and_its_masks_are_counted_once(monkeypatch):
    ranking, read = ranked("pixel", seed=1)
    config = config_of(d_th=0.1, mask_method="taylor")
    counted = []
    real = RankedLayers.counts
    monkeypatch.setattr(RankedLayers, "counts", lambda ranked, budget: counted.append(budget) or real(ranked, budget))
    for budget in (100, 200):
        for d_th in THRESHOLDS:
            canonical(dataclasses.replace(config, d_th=d_th, budget=budget), {"ranking": ranking})
    assert len(read) == 1 and counted == [100, 200]


def measured(losses):
    """A finished measurement of what blocks would lose, in forward order."""
    names = [name for name, _ in builder().baseline(0).config.experiment.build("test").gated_blocks()]
    blocks = [{"block": name, "divergence": loss, "fit_r2": 0.9} for name, loss in zip(names, losses, strict=True)]
    return Parent(record={"key": "gating", "metrics": {"blocks": blocks}}, tensors=dict)


@pytest.mark.parametrize(
    ("number", "expected"), [(1, ["stages.1.1"]), (3, ["stages.0.0", "stages.1.1", "stages.3.1"]), (8, None)]
)
def test_a_number_of_blocks_is_those_that_lose_least_front_to_back(number, expected):
    parents = {"gating": measured((0.2, 0.9, 0.8, 0.1, 0.7, 0.6, 0.5, 0.2))}
    found = gates.gated_by_loss(parents, number)
    assert found == (expected or [block["block"] for block in parents["gating"].record["metrics"]["blocks"]])


def test_of_equal_losses_the_earlier_blocks_are_gated_and_no_more_than_asked_for():
    assert gates.gated_by_loss({"gating": measured([0.5] * 8)}, 2) == ["stages.0.0", "stages.0.1"]


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_what_gated_blocks_leave_of_the_budget_goes_to_the_others(granularity):
    ranking, _ = ranked(granularity)
    experiment = config_of(d_th=None).experiment
    inner = experiment.inner_relus()
    gone = {inner[block] for block in ("stages.0.0", "stages.2.1")}

    def kept(replaced):
        student = experiment.build("test")
        start_student(student, SimpleNamespace(parents={"ranking": ranking}), "continue", 500)
        if replaced:
            share_out_rest(student, ranking, 500, replaced)
        return {layer.name: layer.relu.mask.clone() for layer in student.relu_layers()}

    before, after = kept(()), kept(gone)
    assert all(torch.equal(before[name], after[name]) for name in gone), "what a branch is fitted to stays"
    assert sum(int(before[name].sum()) for name in gone) > 0
    others = [name for name in before if name not in gone]
    assert sum(int(after[name].sum()) for name in others) == 500
    assert all(bool((after[name] | ~before[name]).all()) for name in others), "none is lost for it"


def test_gates_by_number_come_from_a_stage_of_their_own_that_all_numbers_share():
    build = builder()
    leaves = [build.chain(Choice(budget=0.2, mask_method="taylor", gate_blocks=number)) for number in (1, 3)]
    assert len({leaf.parents["gating"].key for leaf in leaves}) == 1
    assert leaves[0].key != leaves[1].key and leaves[0].parents["gating"].epochs == 0
    none = build.chain(Choice(budget=0.2, mask_method="taylor", gate_blocks=0))
    assert none.key == build.chain(Choice(budget=0.2, mask_method="taylor")).key
    with pytest.raises(ValueError, match="gate_blocks 9; expected 0 to 8"):
        build.chain(Choice(budget=0.2, gate_blocks=9))
    with pytest.raises(ValueError, match="gate_blocks is -1"):
        build.chain(Choice(budget=0.2, gate_blocks=-1))
    with pytest.raises(ValueError, match=r"d_th 0\.1 and gate_blocks 2; expected one of them"):
        build.chain(Choice(budget=0.2, gate_blocks=2, d_th=0.1))
    with pytest.raises(ValueError, match=r"gate_loss is -0\.1; expected at least 0 nats"):
        build.chain(Choice(budget=0.2, gate_loss=-0.1))
    with pytest.raises(ValueError, match=r"gate_blocks 2 and gate_loss 0\.5; expected one of them"):
        build.chain(Choice(budget=0.2, gate_blocks=2, gate_loss=0.5))


def test_as_many_blocks_are_gated_as_lose_no_more_than_asked_and_are_trained_once_with_their_number(tmp_path):
    build = builder()

    def leaf(**more):
        return build.chain(Choice(budget=0.2, mask_method="taylor", gb_init="least-squares", gate_epochs=0, **more))

    asked = [leaf(gate_blocks=2)]
    run([asked[0].parents["gating"]], tmp_path)
    store = Store(root=tmp_path)
    parents = read_parents(asked[0], store)
    losses = sorted(block["divergence"] for block in parents["gating"].record["metrics"]["blocks"])
    two, three = sum(losses[:2]), sum(losses[:3])
    assert 0 < two < three
    asked += [leaf(gate_loss=most) for most in (two, (two + three) / 2, losses[0] / 2)]
    assert len({stage.parents["gating"].key for stage in asked}) == 1
    assert [gates.number_within(parents, most) for most in (0.0, two, three, 1e9)] == [0, 2, 3, 8]
    assert run(asked, tmp_path).ok
    records = [store.read(stage) for stage in asked]
    assert [len(record["metrics"]["gated_blocks"]) for record in records] == [2, 2, 2, 0]
    assert sum(SAME_AS in record["metrics"] for record in records) == 2
    assert [record["rows"][0]["gate_loss"] for record in records] == [None, two, (two + three) / 2, losses[0] / 2]
    assert [record["rows"][0]["gate_blocks"] for record in records] == [2, None, None, None]
    plain = build.chain(Choice(budget=0.2, mask_method="taylor"))
    assert canonical(asked[3].config, parents) == plain.config, "what gates nothing is what has no gates"


@pytest.mark.parametrize(("method", "weights"), [("taylor", None), ("senet", "continue")])
def test_a_network_with_gates_by_number_keeps_its_budget_and_loses_those_blocks(method, weights, tmp_path):
    build = builder()
    choice = Choice(budget=0.2, mask_method=method, weights=weights, gate_blocks=3, gb_init="least-squares", gate_epochs=0)
    leaf = build.chain(choice)
    assert run([leaf], tmp_path).ok
    store = Store(root=tmp_path)
    record = store.read(leaf)
    parents = read_parents(leaf, store)
    assert record["metrics"]["gated_blocks"] == gates.gated_by_loss(parents, 3)
    row = record["rows"][0]
    assert (row["gate_blocks"], row["d_th"], row["depth"]) == (3, None, 13)
    layers = record["metrics"].get("layers") or parents["mask"].record["metrics"]["layers"]
    assert sum(layer["kept"] for layer in layers) == row["budget"], "the mask, before blocks are gated"
    inner = {leaf.config.experiment.inner_relus()[block] for block in record["metrics"]["gated_blocks"]}
    gone = sum(layer["kept"] for layer in layers if layer["layer"] in inner)
    assert gone > 0
    assert row["relus"] == (row["budget"] if method == "taylor" else row["budget"] - gone)


def without_times(record):
    epochs = [{name: value for name, value in epoch.items() if name != "time_s"} for epoch in record["history"]]
    metrics = {name: value for name, value in record["metrics"].items() if name != SAME_AS}
    return epochs, metrics, record["rows"], record["config"], record["canonical"]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "budget"), [("senet", 0.1), ("taylor", 0.5)])
def test_equal_gates_are_trained_once_and_as_each_would_have_been(method, budget, tmp_path):
    build = builder()

    def leaf(d_th, **more):
        return build.chain(Choice(budget=budget, d_th=d_th, mask_method=method, **more))

    # What the mask keeps is known before anything is fine-tuned.
    plain = leaf(None)
    root = tmp_path / "together"
    run(list(plain.parents.values()), root)
    store = Store(root=root)
    found = gates.inner_densities(plain.config.experiment, read_parents(plain, store), plain.config.budget)
    lowest, low, high, *_ = sorted(set(found))
    assert lowest > 0
    leaves = [leaf(low), leaf((low + high) / 2), plain, leaf(lowest / 2, gb_init="least-squares")]
    assert run(leaves, root).ok
    trained = [stage for stage in leaves if SAME_AS not in store.read(stage)["metrics"]]
    assert trained == leaves[::2]
    # The others alone, in a root that knows of none before them.
    alone = tmp_path / "alone"
    for copy in leaves[1::2]:
        assert run([copy], alone).ok and SAME_AS not in Store(root=alone).read(copy)["metrics"]
        mine, theirs = weights(root, copy), weights(alone, copy)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert without_times(store.read(copy)) == without_times(Store(root=alone).read(copy))
        assert {row["d_th"] for row in store.read(copy)["rows"]} == {copy.config.d_th}
