"""The four real stages, at their smallest, through the real runner."""

import dataclasses

import numpy as np
import pytest
import torch
from interrupted import check_it_ends_bit_identical
from quick import builder, run, weights
from rich.console import Console

from analysis.results import layers_table, results_table
from raysp.data.sources import load_splits, open_source
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.methods.choices import Choice
from raysp.models.collapse import drop_main_branches
from raysp.models.costs import count_costs
from raysp.models.files import load_model
from raysp.models.relu import MaskedReLU
from raysp.stages.baseline import baseline_stage
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.stages.sensitivity import SparseTask
from raysp.store.records import Store

BUDGETS = (0.05, 0.4)


def chains(scale=0.34, ac_after=(3,)):
    return [builder(scale).chain(Choice(budget=b, d_th=0.1, gamma="linear", ac_after=ac_after, seed=0)) for b in BUDGETS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small sweep, done; its root and its leaves."""
    root = tmp_path_factory.mktemp("finished")
    leaves = chains()
    assert run(leaves, root).ok
    return root, leaves


def test_masks_hold_exactly_the_budget(finished):
    root, leaves = finished
    for leaf in leaves:
        mask = leaf.parents["mask"]
        kept = sum(int(t.sum()) for name, t in weights(root, mask).items() if name.endswith(".mask"))
        assert kept == mask.config.budget
        layers = Store(root=root).read(mask)["metrics"]["layers"]
        assert sum(layer["kept"] for layer in layers) == mask.config.budget


def test_the_baseline_keeps_all(finished):
    root, leaves = finished
    assert all(bool(t.all()) for name, t in weights(root, leaves[0].parents["baseline"]).items() if name.endswith(".mask"))


def test_sensitivity_is_one_minus_density_and_the_density_is_held(finished):
    root, leaves = finished
    stage = leaves[0].parents["mask"].parents["sensitivity"]
    tensors = weights(root, stage)
    convolutions = [t for t in tensors.values() if t.dim() == 4]
    alive, total = sum(int((t != 0).sum()) for t in convolutions), sum(t.numel() for t in convolutions)
    assert abs(alive / total - 0.1) < 0.002
    layers = Store(root=root).read(stage)["metrics"]["layers"]
    assert len(layers) == 17
    assert min(layer["eta_alpha"] for layer in layers) >= 0.05
    assert all(layer["eta_alpha"] == 1 - layer["eta_theta"] for layer in layers)
    assert layers[1]["eta_theta"] == float((tensors["stages.0.0.conv1.weight"] != 0).float().mean())


@pytest.mark.parametrize("density", [0.1, 0.9, 0.9299, 0.93])
def test_any_density_up_to_the_largest_is_held_while_weights_move(density):
    config = builder().chain(Choice(budget=0.1)).parents["mask"].parents["sensitivity"].config
    config = dataclasses.replace(config, density=density, max_density=0.93)
    model = config.experiment.build("test")
    task = SparseTask(model, config)
    start = {name: int(alive.sum()) for name, alive in task.alive.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.rand_like(parameter)
        optimizer.step()
        assert task.end_epoch(epoch, optimizer)["rewired"] > 0
        now = {name: int(alive.sum()) for name, alive in task.alive.items()}
        assert sum(now.values()) == sum(start.values())
        assert all(count <= max(start[name], 0.93 * task.alive[name].numel()) for name, count in now.items())


def test_rows_are_what_the_saved_weights_really_cost(finished):
    root, leaves = finished
    table = results_table(Store(root=root).records()[0])
    assert len(table) == 1 + 2 * len(leaves)
    for leaf in leaves:
        student = leaf.config.experiment.build("test")
        state = weights(root, leaf)
        gated = Store(root=root).read(leaf)["metrics"]["gated_blocks"]
        for name, block in student.gated_blocks():
            if name in gated:
                block.add_shallow_branch(3)
        student.add_exit(3, "pool")
        student = drop_main_branches(student)
        student.load_state_dict(state)  # strict: no main branch of a gated block was saved
        for row in table[table["key"] == leaf.key].to_dict("records"):
            expected = count_costs(student, row["exit"]).totals()
            assert {name: row[name] for name in expected} == expected
        total = sum(m.kept for m in student.modules() if isinstance(m, MaskedReLU))
        final = table[(table["key"] == leaf.key) & (table["exit"] == "final")]
        assert final["relus"].item() == total <= leaf.parents["mask"].config.budget
    assert table[table["mask_method"] == "none"]["relus"].item() == builder()._num_relus


def test_the_small_budget_gates_blocks_and_the_chosen_epoch_has_gates_at_1(finished):
    root, leaves = finished
    record = Store(root=root).read(leaves[0])
    assert record["metrics"]["gated_blocks"]
    chosen = record["history"][record["metrics"]["best_epoch"] - 1]
    assert chosen["gamma"] == 1
    assert record["history"][0]["gamma"] == 0
    final = next(row for row in record["rows"] if row["exit"] == "final")
    assert final["depth"] == 16 - len(record["metrics"]["gated_blocks"])


VARIETY = (
    Choice(budget=0.1, mask_method="snl", d_th=0.1, gb_init="least-squares", ac_after=(2, 3), ac_head="bottleneck", ac_end="fit"),
    Choice(budget=0.1, mask_method="counterfactual", granularity="channel", d_th=0.2, kernel_size=5, gamma="cosine", pram="eq2"),
    Choice(
        budget=0.1,
        mask_method="random",
        granularity="channel",
        ac_after=(1,),
        ac_head="grid",
        ac_init="fit",
        ac_end="fit",
        beta=0.0,
    ),
    Choice(budget=0.1, mask_method="snl", granularity="channel", d_th=0.1, gate_epochs=0, gb_init="least-squares"),
)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A sweep over the methods, done; its root and its leaves."""
    root = tmp_path_factory.mktemp("varied")
    leaves = list(map(builder().chain, VARIETY))
    assert run(leaves, root).ok
    return root, leaves


def test_every_method_keeps_its_budget_and_says_what_it_kept(varied):
    root, leaves = varied
    table = results_table(Store(root=root).records()[0])
    layers = layers_table(Store(root=root).records()[0])
    assert len(layers) == 4 * 17
    for leaf in leaves:
        mask = leaf.parents["mask"]
        tensors = weights(root, mask)
        kept = sum(int(t.sum()) for name, t in tensors.items() if name.endswith(".mask"))
        assert kept == Store(root=root).read(mask)["metrics"]["relus"]
        assert kept == layers[layers["mask_key"] == mask.key]["kept"].sum()
        if mask.config.granularity == "pixel":
            assert kept == mask.config.budget
        else:
            assert 0 < kept <= mask.config.budget
            channels = [t.flatten(1).float().mean(dim=1) for name, t in tensors.items() if name.endswith(".mask")]
            assert {value for t in channels for value in t.tolist()} <= {0.0, 1.0}
        rows = table[table["key"] == leaf.key]
        assert set(rows["mask_method"]) == {mask.config.method}
        assert set(rows["budget"]) == {mask.config.budget}
        assert set(rows["mask_key"]) == {mask.key}
        assert set(rows["sensitivity"].fillna("-")) == {"-" if mask.config.snl else "density 0.1"}
    methods = layers.groupby("mask_method")["eta_alpha"].count()
    assert methods["snl"] == 0, "snl shares nothing out by sensitivity"
    assert methods["counterfactual"] == 17


def test_every_exit_of_a_joint_model_is_a_row(varied):
    root, leaves = varied
    table = results_table(Store(root=root).records()[0])
    rows = table[table["key"] == leaves[0].key].set_index("exit")
    assert list(rows.index) == ["ac2", "ac3", "final"]
    assert set(rows["ac_after"]) == {"2+3"}
    assert rows["depth"].is_monotonic_increasing
    assert rows["macs"].is_monotonic_increasing


def test_least_squares_starts_are_reported(varied):
    root, leaves = varied
    for index in (0, 3):
        metrics = Store(root=root).read(leaves[index])["metrics"]
        assert list(metrics["fit_r2"]) == metrics["gated_blocks"]
        assert 0 <= metrics["start_val_accuracy"] <= 100
    assert "fit_r2" not in Store(root=root).read(leaves[1])["metrics"]
    assert Store(root=root).read(leaves[3])["history"][0]["gamma"] == 1


def test_fitted_heads_start_trained_and_are_reported(varied):
    root, leaves = varied
    records = [Store(root=root).read(leaf) for leaf in leaves]
    metrics = records[2]["metrics"]
    assert list(metrics["ac_fit"]) == ["ac1"]
    assert metrics["ac_fit"]["ac1"]["gradient"] < 1e-3
    assert metrics["start_val_by_exit"].keys() == {"ac1", "final"}
    assert metrics["start_val_by_exit"]["ac1"] > 60, "ten classes; a random start has some 10 %"
    assert [row["ac_init"] for row in records[2]["rows"]] == ["fit", "fit"]
    assert {row["ac_init"] for row in records[0]["rows"]} == {"random"}
    assert not any("ac_fit" in record["metrics"] for record in (records[0], records[1], records[3]))


def test_heads_that_are_fitted_anew_in_the_end_are_what_rows_are_about(varied):
    root, leaves = varied
    for index in (0, 2):
        record = Store(root=root).read(leaves[index])
        metrics, rows = record["metrics"], {row["exit"]: row for row in record["rows"]}
        assert metrics["ac_end_fit"].keys() == rows.keys() - {"final"}
        assert {row["ac_end"] for row in rows.values()} == {"fit"}
        trained = record["history"][metrics["best_epoch"] - 1]["val_by_exit"]
        assert rows["final"]["val_accuracy"] == trained["final"]
        assert any(rows[name]["val_accuracy"] != trained[name] for name in metrics["ac_end_fit"])
    assert "ac_end_fit" not in Store(root=root).read(leaves[1])["metrics"]


def test_finished_stages_are_loaded_as_models(varied):
    root, leaves = varied
    store = Store(root=root)
    splits = load_splits(open_source("digits", None, None))
    for leaf in leaves:
        rows = store.read(leaf)["rows"]
        for row in rows:
            model = load_model(store.directory(leaf), exit=row["exit"])
            assert count_costs(model, row["exit"]).totals() == {name: row[name] for name in ("relus", "macs", "depth", "params")}
            mean = torch.tensor(model.input_mean).view(1, -1, 1, 1)
            std = torch.tensor(model.input_std).view(1, -1, 1, 1)
            images = (torch.from_numpy(splits.test.images) / 255 - mean) / std
            with torch.inference_mode():
                found = model(images).logits[row["exit"]].argmax(dim=1)
            accuracy = 100 * float((found == torch.from_numpy(splits.test.labels)).float().mean())
            assert accuracy == pytest.approx(row["test_accuracy"], abs=0.3), "the saved normalisation belongs to it"
            by_class = store.read(leaf)["metrics"]["test_by_class"]
            assert by_class["images"] == np.bincount(splits.test.labels).tolist()
            right = np.bincount(splits.test.labels, weights=found.numpy() == splits.test.labels)
            hits = np.multiply(by_class["images"], by_class["percent"][row["exit"]]) / 100
            assert np.abs(hits - right).max() < 1.1, "a class's share"
            assert 100 * hits.round().sum() / len(splits.test) == pytest.approx(row["test_accuracy"])
    assert load_model(store.directory(leaves[0].parents["baseline"])).name == "resnet18"


def test_selection_by_the_test_part_holds_nothing_out_and_says_so(tmp_path):
    source = open_source("digits", None, None, "test")
    made = ChainBuilder(PRESETS["quick"], source.config, width=4, epochs_scale=0.1)
    options = RunOptions(inline=True, gpus_per_stage=0)
    assert run_sweep([made.baseline(0)], tmp_path, [source], options, labels={}, console=Console(quiet=True)).ok
    table = results_table(Store(root=tmp_path).records()[0])
    assert table["selection"].tolist() == ["test"]
    assert table["val_accuracy"].tolist() == table["test_accuracy"].tolist()
    splits = load_splits(source)
    assert len(splits.train) == len(load_splits(open_source("digits", None, None)).train) + 144
    assert splits.val is splits.test


@pytest.mark.parametrize("fixture", ["finished", "varied"])
def test_a_run_interrupted_in_every_stage_ends_bit_identical(fixture, request, tmp_path, monkeypatch):
    root, leaves = request.getfixturevalue(fixture)
    check_it_ends_bit_identical(root, leaves, tmp_path, monkeypatch)
    moving = [h["gamma"] for leaf in leaves for h in Store(root=root).read(leaf)["history"][1:2] if "gamma" in h]
    assert any(0 < gamma < 1 for gamma in moving), "an epoch with both branches must be resumed"


def test_a_loss_that_explodes_is_reported_with_its_stage_and_epoch(tmp_path):
    leaf = chains()[0].parents["baseline"]
    wild = dataclasses.replace(leaf.config, recipe=dataclasses.replace(leaf.config.recipe, lr=1e30))
    stage = baseline_stage(wild)
    (message,) = run([stage], tmp_path).failed.values()
    assert f"{stage.label} failed in its first epoch here: FloatingPointError: the loss of epoch 1 is nan" in message
