"""Chains of a ranking, at their smallest, through the real runner."""

import pytest
import torch
from interrupted import check_it_ends_bit_identical
from quick import builder, run, weights

from analysis.results import layers_table, results_table
from raysp.data.sources import load_splits, open_source
from raysp.engine.context import Context, Place, read_parents
from raysp.methods.choices import Choice
from raysp.stages.student import start_student
from raysp.store.keys import key_of
from raysp.store.records import Store

RANKED = (
    Choice(budget=0.1, mask_method="taylor", d_th=0.1, gate_epochs=0, gb_init="least-squares", ac_after=(3,)),
    Choice(budget=0.3, mask_method="taylor", d_th=0.1),
    Choice(budget=0.1, mask_method="taylor", weights="continue"),
    Choice(budget=0.2, mask_method="frozen", granularity="channel"),
    Choice(budget=0.2, mask_method="snl-walk"),
    Choice(budget=0.1, mask_method="random", weights="rewind"),
    Choice(budget=0.3, mask_method="taylor", gate_blocks=2, gate_epochs=2),
)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A sweep over rankings and weights that are rewound, done; its root and its leaves."""
    root = tmp_path_factory.mktemp("ranked")
    leaves = list(map(builder().chain, RANKED))
    assert run(leaves, root).ok
    return root, leaves


def test_one_ranking_gives_every_budget_its_mask(ranked):
    root, leaves = ranked
    records = Store(root=root).records()[0]
    table, layers = results_table(records), layers_table(records)
    walks = [leaf.parents["ranking"] for leaf in leaves[:5]]
    assert walks[0].key == walks[1].key and len({walk.key for walk in walks}) == 4
    for leaf, walk in zip(leaves, walks, strict=False):
        rows = table[table["key"] == leaf.key]
        assert set(rows["mask_key"]) == {walk.key} and set(rows["mask_method"]) == {walk.config.method}
        assert set(rows["budget"]) == {leaf.config.budget} and set(rows["weights"]) == {leaf.config.weights}
        mine = layers[(layers["mask_key"] == walk.key) & (layers["budget"] == leaf.config.budget)]
        assert len(mine) == 17 and set(mine["epochs"]) == {walk.config.recipe.epochs}
        kept = mine["kept"].sum()
        assert kept == leaf.config.budget if walk.config.granularity == "pixel" else 0 < kept <= leaf.config.budget
        assert kept == sum(layer["kept"] for layer in Store(root=root).read(leaf)["metrics"]["layers"])
    smaller, larger = (weights(root, leaf) for leaf in leaves[:2])
    both = [name for name in smaller if name.endswith(".mask") and name in larger]
    assert len(both) > 10 and all(bool((larger[name] | ~smaller[name]).all()) for name in both), "nested"


@pytest.mark.parametrize("index", range(6))
def test_a_fine_tuning_starts_with_the_weights_that_are_asked_for(ranked, index, monkeypatch):
    """And with its mask."""
    root, leaves = ranked
    leaf = leaves[index]
    store = Store(root=root)
    context = Context(stage=leaf, place=Place(store=store), parents=read_parents(leaf, store), report=print)
    student = leaf.config.experiment.build("test")
    facts = start_student(student, context, leaf.config.weights, leaf.config.budget)
    state = {name: tensor for name, tensor in student.state_dict().items() if not name.endswith(".mask")}
    source = leaf.parents["baseline"] if leaf.config.weights == "rewind" else leaf.parents["ranking"]
    assert all(torch.equal(weights(root, source)[name], tensor) for name, tensor in state.items())
    kept = sum(layer.relu.kept for layer in student.relu_layers())
    assert 0 < kept <= facts["budget"] and (facts["granularity"] == "channel" or kept == facts["budget"])
    if "mask" in leaf.parents:
        masks = {name: tensor for name, tensor in student.state_dict().items() if name.endswith(".mask")}
        assert all(torch.equal(weights(root, leaf.parents["mask"])[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("index", [0, 2])
def test_a_rewound_student_starts_with_its_own_statistics_and_another_with_its_masks(ranked, index, tmp_path, monkeypatch):
    from raysp.stages import finetune

    class Seen(Exception):
        """The student's state before its first step."""

    def look(task, *others):
        raise Seen(task.model.state_dict())

    root, leaves = ranked
    leaf, store = leaves[index], Store(root=root)
    monkeypatch.setattr(finetune, "train", look)
    source = open_source("digits", None, None)
    place = Place(store=store, splits={key_of(source.config): load_splits(source)})
    with pytest.raises(Seen) as seen:
        finetune.run(leaf.config, Context(stage=leaf, place=place, parents=read_parents(leaf, store), report=print))
    (state,) = seen.value.args
    rewound = leaf.config.weights == "rewind"
    before = weights(root, leaf.parents["baseline" if rewound else "ranking"])
    means = [name for name in before if name.endswith("running_mean")]
    assert len(means) > 10 and all(torch.equal(state[name], before[name]) != rewound for name in means)
    others = [name for name in state if not name.endswith((".mask", "running_mean", "running_var", "num_batches_tracked"))]
    others = [name for name in others if name in before]
    assert len(others) > 50 and all(torch.equal(state[name], before[name]) for name in others)


def test_a_run_interrupted_in_every_stage_ends_bit_identical(ranked, tmp_path, monkeypatch):
    check_it_ends_bit_identical(*ranked, tmp_path, monkeypatch)
