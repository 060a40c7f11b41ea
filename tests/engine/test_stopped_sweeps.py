"""Sweeps with early stopping: what they train and leave, interrupted or not, and what runs and plans say of it."""

import dataclasses
import json
import shutil

import pytest
from quick import builder
from rich.console import Console
from toy import toy

from raysp.data.sources import open_source
from raysp.engine.context import Place
from raysp.engine.options import RunOptions
from raysp.engine.progress import Progress
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.sweep import run_sweep
from raysp.methods.choices import Choice
from raysp.planning.halving import Halving
from raysp.planning.plan import JobQueue, Plan
from raysp.store.location import Unreachable
from raysp.store.records import RUNGS as RUNGS_FILE
from raysp.store.records import Store
from sweeps.summary import print_failures

GRID = {"d_th": (None, 0.1, 0.3), "budget": (0.1, 0.4)}


def grid(scale=0.5):
    build = builder(scale)
    return [build.chain(Choice(budget=budget, d_th=d_th, ac_after=(3,))) for budget in GRID["budget"] for d_th in GRID["d_th"]]


def swept(root, stopping="pareto", leaves=None, console=None, **options):
    source = open_source("digits", None, None)
    return run_sweep(
        leaves or grid(),
        root,
        [source],
        RunOptions(stopping=stopping, **({"inline": True} | options)),
        labels={},
        console=console or Console(quiet=True),
    )


def accuracies(root):
    return {r["key"]: (r["history"][-1]["val_by_exit"], r["rows"]) for r in Store(root=root).records()[0]}


@pytest.fixture(scope="module")
def stopped_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    outcome = swept(root)
    assert outcome.ok
    return root, outcome


@pytest.fixture(scope="module")
def whole_root(tmp_path_factory):
    """The same grid without stopping."""
    root = tmp_path_factory.mktemp("whole")
    assert swept(root, "none").ok
    return root


def test_a_stopped_sweep_trains_less_and_the_same(stopped_root, whole_root):
    root, outcome = stopped_root
    leaves = grid()
    kept = [leaf for leaf in leaves if Store(root=root).read(leaf)]
    assert len(outcome.stopped) == 5 and len(kept) == 1  # of six: three, two, one
    expected, found = accuracies(whole_root), accuracies(root)
    assert kept[0].key in found and {leaf.key for leaf in leaves} <= set(expected)
    assert found == {key: expected[key] for key in found}  # pausing changes no bit
    for leaf in leaves:
        directory = Store(root=root).directory(leaf)
        assert (directory / RUNGS_FILE).exists() == (leaf not in kept)
        assert (directory / "checkpoint.safetensors").exists() == (leaf not in kept)


def test_given_again_nothing_is_trained(stopped_root):
    root, outcome = stopped_root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    again = swept(root)
    assert again.ok and not again.done and sorted(again.stopped) == sorted(outcome.stopped)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_without_stopping_the_stopped_go_on_from_where_they_were(stopped_root, whole_root, tmp_path):
    root, outcome = stopped_root
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    finished = swept(copy, "none")
    assert sorted(finished.done) == sorted(outcome.stopped)
    assert accuracies(copy) == accuracies(whole_root)
    assert not list(copy.glob(f"stages/*/{RUNGS_FILE}"))
    assert swept(copy).ok  # found ones take part in the race


class Died(BaseException):
    """What kills a driver here."""


def ends_like(stopped_root, root):
    """Whether a sweep that dies again and again, and is given again, ends as the undisturbed one."""
    deaths = 0
    for _ in range(40):
        try:
            outcome = swept(root)
            break
        except Died:
            deaths += 1
    else:
        pytest.fail("it never ended")
    assert deaths
    undisturbed, first = stopped_root
    return accuracies(root) == accuracies(undisturbed) and sorted(outcome.stopped) == sorted(first.stopped)


def test_interrupted_anywhere_it_ends_the_same(stopped_root, tmp_path, monkeypatch):
    """The driver dies after every third job."""
    from raysp.engine import inline

    calls = []
    real = inline.run_job

    def dying(*args, **options):
        calls.append(args[0].label)
        if len(calls) % 3 == 0:
            raise Died
        return real(*args, **options)

    monkeypatch.setattr(inline, "run_job", dying)
    assert ends_like(stopped_root, tmp_path)


def test_killed_between_checkpoint_and_rung_or_record_it_ends_the_same(stopped_root, tmp_path, monkeypatch):
    real = {name: getattr(Store, name) for name in ("save_rung", "commit")}
    calls = []

    def dying(name):
        def call(*args, **options):
            calls.append(name)
            if len(calls) % 3 == 1:
                raise Died
            return real[name](*args, **options)

        return call

    for name in real:
        monkeypatch.setattr(Store, name, dying(name))
    assert ends_like(stopped_root, tmp_path)


def test_a_rung_that_cannot_be_written_is_the_stages_failure(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "save_rung", full)
    outcome = swept(tmp_path)
    assert len(outcome.failed) == 6 and "No space left" in next(iter(outcome.failed.values()))


@pytest.mark.parametrize("content", ["", "[]", '{"key": "x", "rungs": {}, "sha256": ""}', '{"rungs": 3}'])
def test_a_damaged_rung_is_set_aside_and_trained_again(stopped_root, tmp_path, content):
    root, outcome = stopped_root
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    directory = sorted({path.parent for path in copy.glob(f"stages/*/{RUNGS_FILE}")})[0]
    (directory / RUNGS_FILE).write_text(content)
    again = swept(copy)
    assert sorted(again.stopped) == sorted(outcome.stopped)
    assert (directory / f"{RUNGS_FILE}.damaged-1").read_text() == content
    assert json.loads((directory / RUNGS_FILE).read_text())["rungs"]


@pytest.mark.slow
def test_what_trains_the_same_changes_no_race_and_is_given_up_together(stopped_root, tmp_path):
    root, outcome = stopped_root
    twins = [with_threshold(leaf, leaf.config.d_th + 1e-9) for leaf in grid() if leaf.config.d_th is not None]
    found = swept(tmp_path, leaves=[*grid(), *twins])
    assert found.ok
    records = {record["key"]: record for record in Store(root=tmp_path).records()[0]}
    copied = [twin for twin in twins if "same_as" in records.get(twin.key, {"metrics": {}})["metrics"]]
    assert {twin.key for twin in twins} - {twin.key for twin in copied} == set(found.stopped) - set(outcome.stopped)
    expected = accuracies(root)
    assert {key: figures for key, figures in accuracies(tmp_path).items() if key in expected} == expected
    assert sorted(found.stopped) == sorted([*outcome.stopped, *(t.key for t in twins if first_of(t).key in outcome.stopped)])
    for twin in twins:
        if twin not in copied:  # its epochs are another's
            rungs, own = (Store(root=tmp_path).read_rungs(stage) for stage in (twin, first_of(twin)))
            assert rungs.keys() == own.keys() and all(rung["time_s"] == 0 for rung in rungs.values())
    again = swept(tmp_path, leaves=[*grid(), *twins])
    assert not again.done and sorted(again.stopped) == sorted(found.stopped)


def with_threshold(leaf, d_th):
    return dataclasses.replace(leaf, config=dataclasses.replace(leaf.config, d_th=d_th))


def first_of(twin):
    return with_threshold(twin, round(twin.config.d_th, 6))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_ray_the_same_are_stopped(on_ray, stopped_root, tmp_path):
    root, outcome = stopped_root
    found = swept(tmp_path, inline=False, address=on_ray.address, max_concurrent=2, gpus_per_stage=0)
    assert sorted(found.stopped) == sorted(outcome.stopped) and found.ok
    assert accuracies(tmp_path) == accuracies(root)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_ray_with_more_slots_than_configurations_all_is_trained(on_ray, tmp_path):
    leaves = grid()[:1]
    outcome = swept(tmp_path, leaves=leaves, inline=False, address=on_ray.address, max_concurrent=2, gpus_per_stage=0)
    assert outcome.ok and not outcome.stopped and Store(root=tmp_path).read(leaves[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["read_rungs", "read_record"])
def test_on_ray_what_cannot_be_read_is_no_verdict_on_a_stage(tmp_path, monkeypatch, name):
    from raysp.engine.ray import searcher as ray_searcher

    def unreachable(*arguments):
        raise Unreachable("s3://x can't be reached")

    stages = [dataclasses.replace(toy(number=number, epochs=16), stoppable=name == "read_rungs") for number in range(2)]
    slots = Slots(Request(num_threads=1, gpus=0), most=4)
    monkeypatch.setattr(slots, "to_hand_out", lambda: 4)
    with Store(root=tmp_path).lock() as store:
        queue = JobQueue(stages, Halving(stages) if name == "read_rungs" else None)
        place = Place(store=store)
        searcher = ray_searcher.GraphSearcher(queue, place, Progress(stages, lambda: 2, Console(quiet=True)), slots, 1)
        assert searcher.suggest("one")
        monkeypatch.setattr(ray_searcher if name == "read_record" else Store, name, unreachable)
        searcher.on_trial_complete("one", {"epoch": 2})
        assert not queue.outcome.failed and isinstance(searcher.lost, Unreachable)
        assert searcher.suggest("two") == "FINISHED", "the run ends"


def test_a_plan_says_how_much_stopping_saves(tmp_path):
    from raysp.engine.forecast import print_plan
    from raysp.planning.plan import survey

    plan = Plan(grid())
    console = Console(record=True, width=200)
    print_plan(plan, survey(plan, Store(root=tmp_path)), console, "pareto")
    shared = sum(stage.epochs for stage in plan.stages.values() if not stage.stoppable)
    epochs = shared + 6 * 1 + 3 * 1 + 2 * 2 + 1 * 4
    assert f"at most {epochs} epochs" in console.export_text()


def test_stages_that_a_run_leaves_undone_are_not_passed_over_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(JobQueue, "next", lambda queue: None)
    outcome = swept(tmp_path)
    console = Console(record=True, width=200)
    print_failures(outcome, console)
    assert not outcome.ok and "stages left: run the same command again" in console.export_text()
