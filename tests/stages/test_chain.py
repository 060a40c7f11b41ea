"""How choices become stages: what is shared, what is another configuration, and what the presets hold."""

import dataclasses

import pytest
from quick import builder

from raysp.data.sources import open_source
from raysp.methods.choices import Choice
from raysp.planning.plan import Plan
from raysp.stages.chain import ChainBuilder
from raysp.stages.finetune import FinetuneConfig, finetune_stage
from raysp.stages.presets import PRESETS


@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_users_own_sensitivities_take_the_stages_place(as_mapping):
    names = [layer.name for layer in builder().baseline(0).config.experiment.build("test").relu_layers()]
    values = [0.1 * (index + 1) for index in range(len(names))]
    given = dict(reversed(list(zip(names, values, strict=True)))) if as_mapping else values
    made = ChainBuilder(PRESETS["quick"], open_source("digits", None, None).config, width=4, sensitivity=given)
    mask = made.chain(Choice(budget=0.1)).parents["mask"]
    assert mask.config.sensitivity == tuple(values)
    assert list(mask.parents) == ["baseline"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "1 sensitivities; expected 17"),
        ({"stem_relu": 1.0, "nonsense": 2.0}, "^sensitivities: missing .*; unknown 'nonsense'; expected"),
        ({"stem_relu": 1.0}, "^sensitivities: missing (?!.*unknown)"),
        ([-1.0] * 17, "at least 0"),
        ([], "0 sensitivities"),
        ([float("nan")] * 17, "sensitivity is"),
    ],
)
def test_sensitivities_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ChainBuilder(PRESETS["quick"], open_source("digits", None, None).config, width=4, sensitivity=given).mask(
            Choice(budget=0.1)
        )


def test_sharing_between_configurations():
    make = builder(1.0).chain
    base = Choice(budget=0.1, d_th=0.1, gamma="linear", ac_after=(3,), seed=0)
    leaves = [
        make(base),
        make(dataclasses.replace(base, d_th=0.2)),
        make(dataclasses.replace(base, gamma="cosine")),
        make(dataclasses.replace(base, ac_after=())),
        make(dataclasses.replace(base, d_th=None)),
        make(dataclasses.replace(base, d_th=None, gamma="cosine")),
    ]
    plan = Plan(leaves)
    assert [(c.name, c.jobs) for c in plan.counts()] == [("baseline", 1), ("sensitivity", 1), ("mask", 1), ("finetune", 5)]
    assert len(Plan([make(base), make(dataclasses.replace(base, seed=1))]).stages) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"density": 0.2},
        {"mask_start": "scratch"},
        {"mask_method": "random"},
        {"mask_method": "taylor"},
        {"mask_method": "frozen"},
        {"mask_method": "snl-walk"},
        {"weights": "rewind"},
        {"granularity": "channel"},
        {"gamma": "cosine"},
        {"gate_epochs": 3},
        {"gb_init": "least-squares"},
        {"kernel_size": 5},
        {"ac_after": (2, 3)},
        {"ac_head": "bottleneck"},
        {"ac_init": "fit"},
        {"ac_end": "fit"},
        {"pram": "eq2"},
        {"beta": 3.0},
        {"seed": 1},
    ],
)
def test_every_choice_makes_another_configuration(change):
    base = Choice(budget=0.1, d_th=0.1, ac_after=(3,))
    assert builder(1.0).chain(base).key != builder(1.0).chain(dataclasses.replace(base, **change)).key


def test_choices_without_effect_make_none():
    short = Choice(budget=0.1, d_th=0.1, gate_epochs=2)
    assert builder().chain(short).key == builder().chain(dataclasses.replace(short, gamma="cosine")).key
    plain = Choice(budget=0.1, mask_method="snl")
    without = {
        "gamma": "cosine",
        "gb_init": "least-squares",
        "kernel_size": 5,
        "gate_epochs": 3,
        "ac_head": "bottleneck",
        "ac_init": "fit",
        "ac_end": "fit",
    }
    for name, value in {**without, "density": 0.2}.items():
        assert builder().chain(plain).key == builder().chain(dataclasses.replace(plain, **{name: value})).key, name
    no_pram = dataclasses.replace(plain, beta=0.0)
    assert builder().chain(no_pram).key == builder().chain(dataclasses.replace(no_pram, pram="eq2")).key


def test_budgets_share_a_ranking_unless_its_weights_are_gone_on_with():
    def plan(**choice):
        leaves = [builder(1.0).chain(Choice(budget=b, **choice)) for b in (0.05, 0.1, 0.2, 0.4)]
        return {count.name: count.jobs for count in Plan(leaves).counts()}

    assert plan(mask_method="taylor") == {"baseline": 1, "ranking": 1, "finetune": 4}
    assert plan(mask_method="frozen") == plan(mask_method="frozen", weights="continue") == plan(mask_method="taylor")
    assert plan(mask_method="snl-walk") == plan(mask_method="taylor")
    assert plan(mask_method="taylor", weights="continue") == {"baseline": 1, "ranking": 4, "finetune": 4}
    assert plan(mask_method="snl", weights="rewind") == {"baseline": 1, "mask": 4, "finetune": 4}


@pytest.mark.parametrize("name", ["depth_price", "layer_price"])
def test_a_price_makes_another_ranking_and_no_other_mask(name):
    build = builder()

    def stages(**choice):
        return {build.chain(Choice(budget=0.1, **{name: price}, **choice)).key for price in (0.0, 0.5)}

    assert len(stages(mask_method="taylor")) == len(stages(mask_method="frozen")) == 2
    assert len(stages(mask_method="snl")) == len(stages(mask_method="snl-walk")) == 1
    assert f"{name.replace('_', ' ')} 0.5" in build.mask(Choice(budget=0.1, mask_method="taylor", **{name: 0.5})).note
    with pytest.raises(ValueError, match=f"{name} is -1"):
        build.chain(Choice(budget=0.1, mask_method="taylor", **{name: -1.0}))


def test_a_ranking_without_a_price_on_layers_has_the_key_of_before():
    ranking = builder().mask(Choice(budget=0.1, mask_method="taylor"))
    assert "layer_price" not in ranking.config.to_json() and "layer price" not in ranking.note


def test_own_walks_end_at_their_budget_and_leave_epochs_for_its_mask():
    shared = builder(1.0).chain(Choice(budget=0.1, mask_method="taylor")).parents["ranking"].config
    own = builder(1.0).chain(Choice(budget=0.1, mask_method="taylor", weights="continue")).parents["ranking"].config
    assert (own.floor, shared.floor) == (round(0.1 * builder()._num_relus), round(0.02 * builder()._num_relus))
    assert shared.falling_epochs == shared.recipe.epochs > own.falling_epochs > 0


def test_a_budget_is_given_with_a_ranking_and_with_it_alone():
    ranked, masked = (builder().chain(Choice(budget=0.1, mask_method=method)) for method in ("taylor", "random"))
    with pytest.raises(ValueError, match="budget is None with a ranking"):
        finetune_stage(masked.config, baseline=masked.parents["baseline"], mask=ranked.parents["ranking"])
    with pytest.raises(ValueError, match=r"budget is .* with a mask"):
        finetune_stage(ranked.config, baseline=masked.parents["baseline"], mask=masked.parents["mask"])


def test_a_share_and_its_units_are_one_configuration():
    base = Choice(budget=0.1, d_th=0.1, gamma="linear", ac_after=(3,), seed=0)
    units = round(0.1 * builder()._num_relus)
    assert builder().chain(base).key == builder().chain(dataclasses.replace(base, budget=units)).key


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("paper")])
def test_paper_presets_hold_the_papers_numbers(name):
    preset = PRESETS[name]
    for recipe in (preset.baseline, preset.sensitivity, preset.mask, preset.finetune):
        assert (recipe.momentum, recipe.weight_decay, recipe.batch_size, recipe.factor, recipe.decay) == (
            0.9,
            5e-4,
            128,
            0.1,
            "steps",
        )
    assert (preset.baseline.epochs, preset.baseline.lr, preset.baseline.milestones) == (240, 0.05, (150, 180, 210))
    assert (preset.mask.epochs, preset.mask.lr) == (150, 0.05)
    assert (preset.finetune.epochs, preset.finetune.lr, preset.finetune.milestones) == (180, 0.01, (90, 140, 160))
    source = open_source(preset.dataset, None, None)
    chain = ChainBuilder(preset, source.config).chain(Choice(budget=preset.axes["budget"][0], d_th=preset.axes["d_th"][-1]))
    config = chain.config
    assert isinstance(config, FinetuneConfig)
    assert (config.gate_epochs, config.kl_weight, config.beta, config.rho, config.pram) == (90, 0.9, 1000.0, 4.0, "attention")
    mask = chain.parents["mask"].config
    assert mask.recipe.milestones == tuple(round(share * 150) for share in (0.625, 0.75, 0.875))
    assert (mask.kl_weight, mask.rho, mask.start, mask.frozen_share, mask.method) == (0.5, 4.0, "teacher", 0.0, "senet")
    assert chain.parents["mask"].parents["sensitivity"].config.density == 0.1
    snl = ChainBuilder(preset, source.config).mask(Choice(budget=0.1, mask_method="snl")).config
    assert (snl.recipe.optimizer, snl.recipe.lr, snl.snl.penalty, snl.snl.growth, snl.snl.threshold, snl.snl.alpha_share) == (
        "adam",
        1e-3,
        1e-5,
        1.1,
        1e-2,
        1.0,
    )
    assert preset.selection == "test"
    assert None in preset.axes["d_th"], "with and without gated branching"
