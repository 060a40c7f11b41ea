"""Early stopping across objectives: the choice at a rung, and who is handed out, held and given up."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick import builder
from reference import area
from toy import toy

from raysp.data.sources import open_source
from raysp.methods.choices import Choice
from raysp.planning.halving import RUNGS, Halving, better_half, rung_epochs
from raysp.planning.plan import JobQueue
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.stage import Stage


def points(*models):
    return np.array([[-accuracy, relus, macs, depth] for accuracy, relus, macs, depth in models], dtype=float)


def test_rungs_lie_inside_a_stage():
    assert rung_epochs(16) == [2, 4, 8]
    assert rung_epochs(2) == [1]
    assert rung_epochs(1) == []
    assert rung_epochs(180) == [22, 45, 90]


def test_few_relus_need_not_be_as_accurate_as_many():
    cheap, costly = points((40, 10, 10, 4)), points((90, 1000, 10, 4))
    beaten = [points((39, 20, 10, 4)), points((80, 1500, 10, 4))]
    assert better_half([beaten[0], costly, beaten[1], cheap]) == {1, 3}


def test_of_equal_rank_those_stay_that_add_most_volume():
    twins = [points((70, 100, 10, 4)), points((70.1, 101, 10, 4))]  # all but one another's copies: one of them is enough
    far = points((50, 10, 10, 4))
    kept = better_half([twins[0], twins[1], far, points((49, 11, 10, 4))])
    assert 2 in kept and len(kept & {0, 1}) == 1


def test_a_model_is_as_good_as_its_best_exit():
    """An auxiliary classifier may save a configuration whose final exit is beaten."""
    both = points((60, 500, 10, 8), (55, 20, 10, 4))
    assert better_half([points((70, 400, 10, 8)), both, points((54, 30, 10, 4)), points((60, 450, 10, 8))]) == {0, 1}


@given(st.lists(st.lists(st.tuples(*(st.integers(1, 9) for _ in range(4))), min_size=1, max_size=2), min_size=1, max_size=7))
def test_half_is_kept_and_no_rank_is_passed_over(configurations):
    all_points = [points(*models) for models in configurations]
    kept = better_half(all_points)
    assert len(kept) == -(-len(configurations) // 2)
    # Whoever goes is not better in rank than whoever stays: a configuration that beats another everywhere stays before it.
    for gone in set(range(len(configurations))) - kept:
        for stays in kept:
            assert not all(any((a <= b).all() and (a < b).any() for a in all_points[gone]) for b in all_points[stays])


@pytest.mark.parametrize("seed", range(5))
def test_the_one_given_up_is_the_one_that_adds_least(seed):
    """Of four mutually undominated models three go one by one; the first two by an exhaustive count."""
    random = np.random.default_rng(seed)
    accuracy = np.sort(random.integers(20, 90, 4)).astype(float)
    relus = np.sort(random.choice(np.arange(1, 60), 4, replace=False)).astype(float)
    models = [points((a, r, 1, 1)) for a, r in zip(accuracy + np.arange(4), relus, strict=True)]
    worst = 1.1 * relus.max()

    def volume(chosen):
        return area([(-m[0, 0] / 100, 1 - m[0, 1] / worst) for m in chosen])

    left = list(range(4))
    while len(left) > 2:
        left.remove(max(left, key=lambda n: volume([models[m] for m in left if m != n])))
    assert better_half(models) == set(left)


class Race:
    """Eight toy stages of 16 epochs whose accuracy is their number, or what the test says."""

    def __init__(self, number=8):
        self.stages = [dataclasses.replace(toy(number=n, epochs=16), stoppable=True) for n in range(number)]
        self.queue = JobQueue(self.stages, Halving(self.stages))
        self.handed = []

    def row(self, stage):
        return [{"exit": "final", "val_accuracy": 10.0 + stage.config.number, "relus": 5, "macs": 5, "depth": 5}]

    def run(self, order=None):
        stopped = []
        while stage := self.queue.next():
            until = self.queue.until(stage)
            self.handed.append((stage.config.number, until))
            if until is None:
                self.queue.done(stage, {"history": [], "rows": []})
            else:
                self.queue.paused(stage, until, self.row(stage))
            stopped += [s.config.number for s in self.queue.settle()]
        return stopped


def test_eight_run_to_the_first_rung_four_to_the_second_two_to_the_third_one_to_the_end():
    race = Race()
    stopped = race.run()
    assert sorted(race.handed[:8]) == [(n, 2) for n in range(8)]
    assert sorted(race.handed[8:12]) == [(n, 4) for n in (4, 5, 6, 7)]
    assert sorted(race.handed[12:14]) == [(n, 8) for n in (6, 7)]
    assert race.handed[14:] == [(7, None)]
    assert sorted(stopped) == list(range(7))
    assert race.queue.exhausted and race.queue.outcome.ok and len(race.queue.outcome.stopped) == 7
    assert Halving(race.stages).epochs == 8 * 2 + 4 * 2 + 2 * 4 + 1 * 8


def test_a_stage_that_finishes_instead_of_pausing_holds_nobody_up():
    """As one does that had trained all its epochs in an earlier run, and was killed before its record."""
    race = Race(4)
    first = race.queue.next()
    history = [{"val_by_exit": {"final": 50.0}}] * 16
    race.queue.done(first, {"history": history, "rows": race.row(first)})
    race.run()
    assert race.queue.exhausted and len(race.queue.outcome.done) == 1 and len(race.queue.outcome.stopped) == 3


@pytest.mark.parametrize("number", [1, 2, 5])
def test_more_is_to_come_while_any_stage_runs_to_a_rung(number):
    """With more slots than stages, all run at once and nothing is ready, blocked or held."""
    race = Race(number)
    while running := list(iter(race.queue.next, None)):
        last = race.queue.until(running[0]) is None
        for stage in running:
            assert race.queue.exhausted == last
            if last:
                race.queue.done(stage, {"history": [], "rows": []})
            else:
                race.queue.paused(stage, race.queue.until(stage), race.row(stage))
        race.queue.settle()
    assert race.queue.exhausted and not race.queue.left and len(race.queue.outcome.done) == 1


def test_nobody_waits_for_a_stage_that_failed():
    race = Race(3)
    first = race.queue.next()
    race.queue.failed(first, "told to")
    race.run()
    assert race.queue.exhausted and first.key in race.queue.outcome.failed
    assert len(race.queue.outcome.done) == 1 and len(race.queue.outcome.stopped) == 1


def test_seeds_of_a_configuration_go_on_together():
    """One seed's luck decides nothing: the mean does."""
    build = builder()
    chains = {(budget, seed): build.chain(Choice(budget=budget, seed=seed)) for budget in (0.1, 0.2) for seed in (0, 1)}
    halving = Halving(chains.values(), rungs=(0.5,))
    accuracy = {(0.1, 0): 90.0, (0.1, 1): 10.0, (0.2, 0): 60.0, (0.2, 1): 60.0}
    for which, stage in chains.items():
        row = {"exit": "final", "val_accuracy": accuracy[which], "relus": 5, "macs": 5, "depth": 5}
        halving.arrived(stage.key, halving.until(stage.key), [row])
        halving.settle()
    gone = {which for which, stage in chains.items() if halving.stopped_at(stage.key) is not None}
    assert gone == {(0.1, 0), (0.1, 1)}


def test_a_seed_that_takes_over_anothers_results_counts_in_its_configuration_and_keeps_the_other_training():
    """Of two thresholds that gate the same blocks under one seed's mask, not under the other's."""
    build = builder()
    chains = {(b, seed): build.chain(Choice(budget=b, seed=seed)) for b in (0.1, 0.2, 0.3, 0.4) for seed in (0, 1)}
    accuracy = {(0.1, 0): 10, (0.1, 1): 10, (0.2, 1): 95, (0.3, 0): 50, (0.3, 1): 50, (0.4, 0): 60, (0.4, 1): 60}
    halving = Halving(chains.values(), rungs=(0.25, 0.5))
    first, follower = chains[0.1, 0], chains[0.2, 0]
    halving.follows(follower.key, first.key)

    def arrive(keys):
        for which in keys:
            row = {"exit": "final", "val_accuracy": float(accuracy[which]), "relus": 5, "macs": 5, "depth": 5}
            halving.arrived(chains[which].key, halving.until(chains[which].key), [row])
        halving.settle()
        return {which for which, stage in chains.items() if halving.stopped_at(stage.key) is not None}

    # 0.2 is worth (10 + 95) / 2, and is left with 0.4; so the first seed of 0.1 trains on for it, and the second doesn't.
    assert arrive(accuracy) == {(0.1, 1), (0.3, 0), (0.3, 1)}
    assert not halving.waits(first.key)
    assert arrive([(0.1, 0), (0.2, 1), (0.4, 0), (0.4, 1)]) == set(chains) - {(0.4, 0), (0.4, 1)}, "now nobody needs it"
    halving.rejoined(follower.key)
    assert halving.stopped_at(first.key) is not None


def test_stages_on_other_data_do_not_compete():
    second = ChainBuilder(PRESETS["quick"], open_source("digits", 16, None).config, width=4, epochs_scale=0.34)
    stages: list[Stage] = [b.chain(Choice(budget=budget)) for b in (builder(), second) for budget in (0.1, 0.2)]
    halving = Halving(stages, RUNGS)
    for number, stage in enumerate(stages):
        row = {"exit": "final", "val_accuracy": float(number), "relus": 1, "macs": 1, "depth": 1}
        halving.arrived(stage.key, halving.until(stage.key), [row])
    halving.settle()
    assert [halving.stopped_at(stage.key) is not None for stage in stages] == [True, False, True, False]
