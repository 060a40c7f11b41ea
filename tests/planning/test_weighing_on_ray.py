"""Predicted costs where Ray's workers train: over a user's own link, by a user's own calibrations."""

import dataclasses
import functools

import pytest
from calibrated import known, members
from quick import builder, values_of
from rich.console import Console

from raysp.data.sources import open_source
from raysp.engine.context import read_parents
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.latency.links import parse_link
from raysp.latency.tables import PartCosts
from raysp.methods.choices import Choice
from raysp.planning.proposals import objectives_of, proposed
from raysp.planning.tune_searchers import TuneAlgorithm
from raysp.planning.weighing import Weighing
from raysp.stages.time_limit import gated_in_time
from raysp.store.records import Store
from sweeps.searching import read_search

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own imports warn

INLINE = RunOptions(inline=True, gpus_per_stage=0)
ON_RAY = RunOptions(address="local", max_concurrent=2, gpus_per_stage=0)
FITTED = {"mask_method": "frozen", "gb_init": "least-squares", "gate_epochs": 0}


@functools.cache
def mine():
    """Made up: what reads large maps is dear, so that blocks early in the network save most."""

    def costs(shape):
        return PartCosts(time_s=9.0 if "8x8" in shape else 0.1, bytes=2e6, messages=4.0, round_trips=2.0)

    return known(members(image_size=8, in_channels=1, num_classes=10, width=4), costs=costs)


def weighing():
    return Weighing(costs=("relus", "pred_link_s"), calibrations=mine(), link=parse_link("100mbit,20ms"))


def swept(leaves, root, options, **more):
    source = open_source("digits", None, None)
    quiet = {"labels": {}, "console": Console(quiet=True)}
    return run_sweep(leaves, root, [source], options, weighing=weighing(), **quiet, **more)


def test_early_stopping_gives_up_the_same_on_ray_as_in_one_process(tmp_path):
    build = builder(0.5, calibrations=mine())
    choices = [Choice(budget=b, gate_blocks=gates, **FITTED) for b in (0.1, 0.4) for gates in (0, 4)]
    leaves = [build.chain(choice) for choice in choices]
    options = [dataclasses.replace(one, stopping="pareto") for one in (INLINE, ON_RAY)]
    here, on_ray = (swept(leaves, tmp_path / str(number), one) for number, one in enumerate(options))
    assert on_ray.ok and 0 < len(on_ray.stopped) < len(leaves)
    assert sorted(on_ray.stopped) == sorted(here.stopped)
    store = Store(root=tmp_path / "1")
    rungs = [rung for leaf in leaves if leaf.key in on_ray.stopped for rung in store.read_rungs(leaf).values()]
    assert rungs and all(weighing().knows(rung["rows"]) for rung in rungs)


def test_a_search_on_ray_is_told_the_seconds_over_the_link(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    build = builder(0.1, calibrations=mine())
    search = read_search("optuna", 3, ["budgets"], values_of(mask_method=("frozen",)), build, weighing())
    told = {}
    tell = TuneAlgorithm.tell
    monkeypatch.setattr(TuneAlgorithm, "tell", lambda self, n, found: told.update({n: found}) or tell(self, n, found))
    assert swept([], tmp_path, ON_RAY, search=search).ok
    store, expected = Store(root=tmp_path), []
    for leaf in proposed(search, tmp_path):
        rows = weighing().of_record(store.read(leaf), None)
        expected.append(objectives_of(rows, search.largest, weighing()))
    assert [told[number] for number in range(3)] == expected
    assert all(set(found) == {"val_accuracy", "relus", "pred_link_s", "score"} for found in expected)


def test_workers_choose_blocks_for_a_limit_by_the_users_own_calibrations(tmp_path):
    def own(seconds):
        choice = Choice(budget=0.2, max_seconds=seconds, link="100mbit,20ms", **FITTED)
        return builder(0.1, calibrations=mine()).chain(choice)

    assert swept(list(own(1).parents.values()), tmp_path, INLINE).ok

    def chosen(leaf):
        parents = read_parents(leaf, Store(root=tmp_path))
        return gated_in_time(leaf.config.time_limit, leaf.config.experiment, parents, leaf.config.budget)

    fastest, slowest = chosen(own(0.001)).seconds, chosen(own(10_000)).seconds
    leaf = own((fastest + slowest) / 2)
    assert swept([leaf], tmp_path, ON_RAY).ok
    gated = Store(root=tmp_path).read(leaf)["metrics"]["gated_blocks"]
    assert gated == list(chosen(leaf).blocks) and 0 < len(gated) < 8
    assert leaf.config.time_limit.calibration == mine().digest, "a worker that lacks them refuses"
