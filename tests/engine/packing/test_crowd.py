"""Stages that are trained side by side to be measured: on CPUs here, where the memory of a GPU is nobody's."""

import os
import pickle
import time

import pytest
from quick import builder
from toy import toy

from raysp.data.sources import open_source, part_sizes
from raysp.engine.packing import crowd, member
from raysp.engine.packing.crowd import Trial, measure
from raysp.engine.packing.rule import Measured
from raysp.methods.choices import Choice
from raysp.planning.plan import Plan
from raysp.store.keys import key_of


def trial(**options):
    build = builder(1.0)
    choices = [Choice(budget=0.1), Choice(budget=0.1, d_th=0.3), Choice(budget=0.1, gate_blocks=2)]
    plan = Plan(map(build.chain, choices))
    source = open_source("digits", None, None)
    sizes = {key_of(source.config): part_sizes(source)}
    return Trial(stages=list(plan.stages.values()), at_once=2, sizes=sizes, gpus=0, seconds=0.2, **options)


@pytest.fixture
def started(monkeypatch):
    """Processes that were started."""
    found = []
    real = crowd._Process

    class Watched(real):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            found.append(self.process)

    monkeypatch.setattr(crowd, "_Process", Watched)
    yield found
    assert found and all(process.returncode is not None for process in found), "one has outlived the measuring"


@pytest.mark.slow
def test_real_stages_are_trained_side_by_side(started, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(crowd, "kept", max)  # whatever two cores gain
    found = measure(trial(), 2)
    assert found.failed == "" and found.memory is found.room is None
    assert set(found.rates) == {1, 2} and min(found.rates.values()) > 0
    assert len(started) == 3 and not list(tmp_path.glob("raysp*"))


def test_what_is_no_stage_of_ours_is_told(started):
    found = measure(Trial(stages=[toy()], gpus=0), 2)
    assert found.rates == {} and found.failed.startswith("it couldn't be measured (")


def test_a_gpu_that_is_none_is_told(started, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = measure(Trial(stages=trial().stages, sizes=trial().sizes), 1)
    assert found.rates == {} and found.failed.startswith("it couldn't be measured (")


def test_it_ends_when_its_time_is_up(started):
    begun = time.monotonic()
    assert measure(trial(), 1, limit_s=0.5).failed == "it couldn't be measured (it took too long)"
    assert time.monotonic() - begun < 20


def test_an_interrupt_ends_all(started, monkeypatch):
    def interrupt(process):
        raise KeyboardInterrupt

    monkeypatch.setattr(crowd._Process, "hear", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(trial(), 3)


class Scripted:
    """A process that is none, of a machine where so many stages make so much together, and each takes a GB of 10."""

    together = None
    dies_at = None
    has_begun = False

    def __init__(self, scratch, number, environment):
        self.number, self.words, self.process = number, ["started"], self
        self.all.append(self)

    def wait(self):
        pass

    kill = end = wait

    def tell(self, word):
        self.words.append(word)

    def hear(self):
        word = self.words.pop(0)
        going = sum(bool(each.number) and each.has_begun for each in self.all)
        if self.number == 0:
            return {"free": 10 * 10**9}
        if word == "prepare":
            self.has_begun = True
            if self.number == self.dies_at:
                raise RuntimeError("CUDA out of memory")
            return {"free": 10 * 10**9 - 900 * 10**6, "data": 100 * 10**6}
        return {"rate": self.together[going] / going} if word == "go" else {}


@pytest.fixture
def machine(monkeypatch):
    Scripted.all, Scripted.dies_at = [], None
    monkeypatch.setattr(crowd, "_Process", Scripted)
    return Scripted


@pytest.mark.parametrize(
    ("together", "most", "rates"),
    [
        ({1: 55.0, 2: 105.0, 4: 174.0, 8: 279.0}, 8, {1: 55.0, 2: 105.0, 4: 174.0, 8: 279.0}),
        ({1: 280.0, 2: 281.0}, 8, {1: 280.0, 2: 281.0}),
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 9: 9.0}, 16, {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 9: 9.0}),
        ({1: 1.0, 2: 2.0, 3: 3.0}, 3, {1: 1.0, 2: 2.0, 3: 3.0}),
        ({1: 1.0}, 1, {1: 1.0}),
    ],
)
def test_more_are_tried_while_they_gain_and_memory_holds_them(together, most, rates, machine):
    machine.together = together
    found = measure(Trial(), most)
    assert {number: pytest.approx(rate) for number, rate in found.rates.items()} == rates
    assert (found.memory, found.room, found.failed) == (10**9, 10**10, "")


@pytest.mark.parametrize(
    ("dies_at", "rates", "failed"),
    [
        (1, {}, "it couldn't be measured (CUDA out of memory)"),
        (2, {1: 1.0}, "2 at once failed (CUDA out of memory)"),
        (4, {1: 1.0, 2: 2.0}, "4 at once failed (CUDA out of memory)"),
    ],
)
def test_what_was_measured_before_a_fault_counts(dies_at, rates, failed, machine):
    machine.together, machine.dies_at = {1: 1.0, 2: 2.0, 4: 4.0}, dies_at
    found = measure(Trial(), 8)
    assert (found.rates, found.failed) == (rates, failed)
    assert isinstance(found, Measured)


def test_a_member_ends_when_nobody_tells_it_anything_any_more(tmp_path):
    process = crowd._Process(*written(tmp_path), dict(os.environ))
    assert process.hear() == {"started": True}
    process.process.stdin.close()
    assert process.process.wait(30) == 0
    process.process.stdout.close()


def written(tmp_path):
    """A trial, for a process by itself."""
    (tmp_path / crowd.TRIAL).write_bytes(pickle.dumps(trial()))
    return tmp_path, 1


def test_a_stage_that_is_watched_keeps_nothing(place):
    """Its epochs are as long as they are without saving."""
    store = member._Forgetful(root=place.store.root)
    stage = trial().stages[0]
    store.save_checkpoint(stage, {}, {})
    store.write_error(stage, "text")
    assert store.load_checkpoint(stage) is None and not store.directory(stage).exists()
