"""A plan's seconds, from some steps of each kind of its stages."""

import pytest
from quick import builder
from rich.console import Console

from raysp.data.sources import load_splits, open_source, part_sizes
from raysp.engine import calibration
from raysp.engine.calibration import EPOCHS, Calibration, Rate, calibrate, shortened
from raysp.engine.forecast import print_seconds
from raysp.engine.options import RunOptions
from raysp.engine.surroundings import Cpus
from raysp.methods.choices import Choice
from raysp.planning.plan import Plan, survey
from raysp.store.records import Store


def plan(**values):
    build = builder(1.0)
    return Plan(
        build.chain(Choice(budget=budget, d_th=d_th, ac_after=ac, **values))
        for budget in (0.1, 0.2)
        for d_th in (None, 0.3)
        for ac in ((), (2, 3))
    )


@pytest.mark.parametrize("selection", ["val", "test"])
def test_sizes_are_known_without_decoding(selection):
    source = open_source("digits", None, None, selection)
    splits = load_splits(source)
    assert part_sizes(source) == {part: len(getattr(splits, part)) for part in ("train", "val", "test")}


def test_every_kind_is_tried_once_and_scaled(monkeypatch):
    tried = []
    real = calibration._try

    def watch(stage, *rest):
        tried.append(stage.name)
        return real(stage, *rest)

    monkeypatch.setattr(calibration, "_try", watch)
    source = open_source("digits", None, None)
    found = calibrate(plan(), [source], num_threads=1, gpus=0)
    assert tried == ["baseline", "baseline", "sensitivity", "mask", *["finetune"] * 4]  # of two budgets one
    assert set(found.seconds) == set(plan().stages) and min(found.seconds.values()) > 0
    stages = list(plan().stages.values())
    assert found.of(stages) == pytest.approx(sum(found.seconds.values()))
    assert max(found.seconds.values()) < found.chain(stages) < found.of(stages)


def test_limits_of_seconds_are_tried_once():
    build = builder(1.0)

    def of(limits, **more):
        return [build.chain(Choice(budget=0.1, mask_method="taylor", max_seconds=s, link=link, **more)) for s, link in limits]

    several = of([(14, "wan"), (20, "wan"), (20, "lan"), (3, None)])
    assert len({calibration.kind_of(leaf) for leaf in several}) == 1
    others = [*of([(14, "wan")], kernel_size=5), build.chain(Choice(budget=0.1, mask_method="taylor", d_th=0.1))]
    assert len({calibration.kind_of(leaf) for leaf in (several[0], *others)}) == 3


def record(*seconds, whole_s=60.0):
    history = [{"time_s": time_s} for time_s in seconds]
    return {
        "started": "2026-11-27T10:00:00.000+00:00",
        "finished": f"2026-11-27T10:{whole_s / 60:02.0f}:00.000+00:00",
        "history": history,
    }


def test_epochs_in_which_a_step_is_recorded_do_not_count():
    spent = record(20.0, 7.0, 1.0, 8.0, 2.0)
    assert calibration._rate(spent, 10.0, changes=True) == Rate(before=10.0, after=20.0, beside=22.0)
    assert calibration._rate(spent, 10.0, changes=False) == Rate(before=15.0, after=15.0, beside=22.0)


def test_a_trial_has_two_epochs_of_every_kind_of_step(tmp_path, monkeypatch):
    """So that a GPU has recorded a step before the epoch that counts."""
    records = []
    real = calibration._rate
    monkeypatch.setattr(calibration, "_rate", lambda record, *rest, **more: records.append(record) or real(record, *rest, **more))
    leaf = builder(1.0).chain(Choice(budget=0.1, d_th=1.0, mask_method="snl"))
    found = calibrate(Plan([leaf]), [open_source("digits", None, None)], num_threads=1, gpus=0)
    mask, finetune = records[-2:]
    assert [h["gamma"] for h in finetune["history"]] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert ["snl_count" in h for h in mask["history"]] == [True, True, True, False, False]
    rate = found.rates[leaf.key]
    assert found.seconds[leaf.key] == pytest.approx(rate.beside + 6 * rate.before + 10 * rate.after)
    of_mask = leaf.parents["mask"]
    assert calibration._epochs_before(of_mask.config) == 12, "of 16 epochs a quarter is frozen"


@pytest.mark.parametrize(("gpus", "first", "images"), [(0, 16, 150), (1, 2048, 2048)])
def test_on_a_gpu_a_trial_is_long_enough_to_record_a_step(gpus, first, images, monkeypatch):
    tried = []

    def watch(stage, sizes, images, *rest):
        tried.append(images)
        whole = next(iter(sizes.values()))["train"]
        return Rate(before=1.0, after=2e-3 * whole, beside=0.0)

    monkeypatch.setattr(calibration, "_try", watch)
    calibrate(plan(), [open_source("digits", None, None)], num_threads=1, gpus=gpus)
    assert tried[0] == first
    assert set(tried[1:]) == {images}


def test_a_trial_of_snls_walk_ends_with_its_mask_frozen():
    stage = builder(1.0).mask(Choice(budget=0.1, mask_method="snl-walk"))
    short = shortened(stage, 16, {})
    assert (short.config.updated_epochs, stage.config.updated_epochs) == (EPOCHS - 2, stage.epochs - 1)


def test_every_mask_method_can_be_tried():
    build = builder(1.0)
    methods = [("snl", "pixel"), ("random", "channel"), ("counterfactual", "pixel")]
    methods += [("taylor", "channel"), ("frozen", "pixel"), ("snl-walk", "pixel")]
    leaves = [build.mask(Choice(budget=0.1, mask_method=method, granularity=granularity)) for method, granularity in methods]
    found = calibrate(Plan(leaves), [open_source("digits", None, None)], num_threads=1, gpus=0)
    assert min(found.seconds.values()) > 0


def test_what_is_said(tmp_path, monkeypatch):
    made = plan()
    seconds = {key: 10.0 * stage.epochs for key, stage in made.stages.items()}
    monkeypatch.setattr("raysp.engine.forecast.calibrate", lambda *a, **k: Calibration(seconds=seconds))
    console = Console(record=True, width=300)
    options = RunOptions(inline=True)
    print_seconds(made, survey(made, Store(root=tmp_path)), [], options, console)
    text = console.export_text()
    # 24 + 12 + 2 * 16 + 8 * 16 = 196 epochs; apart 4 + 2 * 4 networks (two with two auxiliary classifiers) of 68 each.
    assert "About 32:40 of computing to train; 32:40 on this machine (1 stage at once)" in text
    assert "separate pipelines 2:16:00, 4.2x as long" in text
    assert made.separate_epochs == 12 * 68


@pytest.mark.parametrize("options", [{"gpus_per_stage": 1}, {"cuda_graph": "on"}, {"cuda_graph": "on", "inline": True}])
def test_where_stages_are_to_have_a_gpu_and_there_is_none_that_is_said(options, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made, console = plan(), Console(record=True, width=300)
    print_seconds(made, survey(made, Store(root=tmp_path)), [], RunOptions(**options), console)
    assert "can't be tried here: stages are to have a GPU, and torch finds none" in console.export_text()


@pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "4 stages at once"),
        ({"max_concurrent": 3}, "3 stages at once"),
        ({"threads_per_stage": 3}, "1 stage at once"),
        ({"workers_per_stage": 2}, "2 stages at once"),
        ({"workers_per_stage": 5}, "no room for a stage, which asks for 5 workers of 1 CPU each"),
        ({"gpus_per_stage": 0.05}, "4 stages at once"),
        ({"gpus_per_stage": 0.5}, "2 stages at once"),
        ({"gpus_per_stage": "auto"}, "1 stage at once"),
        ({"gpus_per_stage": 1, "workers_per_stage": 2}, "no room for a stage, which asks for 2 workers of 1 CPU, 1 GPU each"),
    ],
)
def test_as_many_stages_are_said_to_run_at_once_as_a_run_has_room_for(options, said, tmp_path, monkeypatch):
    made = plan()
    seconds = dict.fromkeys(made.stages, 1.0)
    monkeypatch.setattr("raysp.engine.forecast.calibrate", lambda *a, **k: Calibration(seconds=seconds))
    monkeypatch.setattr("raysp.engine.forecast.cpus", lambda: Cpus(machine=64, affinity=4, quota=4.5))
    monkeypatch.setattr("torch.cuda.is_available", lambda: "gpus_per_stage" in options)
    monkeypatch.setattr("torch.cuda.device_count", lambda: int("gpus_per_stage" in options))
    console = Console(record=True, width=300)
    print_seconds(made, survey(made, Store(root=tmp_path)), [], RunOptions(**options), console)
    text = console.export_text()
    assert said in text
    assert ("without several stages on a GPU" in text) == (options.get("gpus_per_stage") == "auto")
    assert ("without sharing stages among workers" in text) == ("workers_per_stage" in options)
