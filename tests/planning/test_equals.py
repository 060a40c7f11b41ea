"""Stages that train the same: who is handed out to train, who waits, and who is handed out to be copied."""

import dataclasses

import pytest
from toy import toy, twins

from raysp.planning.equals import Equals
from raysp.planning.halving import Halving
from raysp.planning.plan import JobQueue

EMPTY = {"history": [{"val_by_exit": {}}] * 16, "rows": []}
"""Of a record, what a queue looks at."""


def told(done=None):
    """Equals whose stages say themselves what they come to."""
    return Equals(lambda stage: stage.canonical_key({}), lambda name: done or {})


def test_the_first_trains_and_the_others_are_copied_when_it_is_done():
    first, second, third = stages = twins("", "b", "c")
    child = toy("child", {"p": third})
    queue = JobQueue([*stages, child], equals=told())
    assert queue.next() is first and queue.same_as(first) is None
    assert queue.next() is None and not queue.exhausted, "they train if the first fails"
    assert second.key in queue.following and first.key not in queue.following
    queue.done(first, EMPTY)
    for copy in (second, third):
        assert queue.next() is copy and queue.same_as(copy) == first.key
        queue.done(copy, EMPTY)
    assert queue.next() is child and queue.exhausted
    assert queue.outcome.done == [stage.key for stage in stages]


def test_what_differs_in_more_trains_itself():
    stages = [*twins("b"), *twins("b", number=1), *twins("b", name="other"), *twins("b", parents={"p": toy()})]
    queue = JobQueue(stages, equals=told())
    assert {queue.next().key for _ in stages} == {stage.key for stage in stages}


def test_when_the_first_fails_the_next_is_first():
    _, second, third = stages = twins("a", "b", "c")
    queue = JobQueue(stages, equals=told())
    queue.failed(queue.next(), "told to")
    assert queue.next() is second and queue.same_as(second) is None and queue.next() is None
    queue.done(second, EMPTY)
    assert queue.next() is third and queue.same_as(third) == second.key


def test_after_all_have_failed_a_later_one_trains():
    first, later = twins("a", "b")
    queue = JobQueue([first], equals=told())
    queue.failed(queue.next(), "told to")
    queue.add([later])
    assert queue.next() is later and queue.same_as(later) is None


def test_one_that_is_done_is_the_first():
    done, second, third = twins("a", "b", "c")
    queue = JobQueue([second, third], equals=told({done.canonical_key({}): done.key}))
    assert not queue.exhausted
    assert [queue.same_as(queue.next()) for _ in range(2)] == [done.key] * 2


def test_of_those_whose_first_is_no_use_one_trains():
    done, second, third = twins("a", "b", "c")
    queue = JobQueue([second, third], equals=told({done.canonical_key({}): done.key}))
    for stage in (queue.next(), queue.next()):
        queue.trains_itself(stage)
    assert queue.next() is second and queue.same_as(second) is None and queue.next() is None
    queue.done(second, EMPTY)
    assert queue.next() is third and queue.same_as(third) == second.key


class Race:
    """Toy stages of 16 epochs, some of which train the same; their accuracy is their number."""

    def __init__(self, stages, done=None):
        self.stages = [dataclasses.replace(stage, stoppable=True) for stage in stages]
        self.queue = JobQueue(self.stages, Halving(self.stages), told(done))
        self.handed = []

    def run(self, fails=()):
        stopped = []
        while stage := self.queue.next():
            if self.queue.same_as(stage):
                self.queue.done(stage, EMPTY)
                continue
            until = self.queue.until(stage)
            self.handed.append((stage.config.number, stage.config.behaviour, until))
            if (stage.config.number, stage.config.behaviour, until) in fails:
                self.queue.failed(stage, "told to")
            elif until is None:
                self.queue.done(stage, EMPTY)
            else:
                row = {"exit": "final", "val_accuracy": 10.0 + stage.config.number, "relus": 5, "macs": 5, "depth": 5}
                self.queue.paused(stage, until, [row])
            stopped += self.queue.settle()
        assert self.queue.exhausted and not self.queue.left
        return {(stage.config.number, stage.config.behaviour) for stage in stopped}

    @property
    def done(self):
        names = {stage.key: (stage.config.number, stage.config.behaviour) for stage in self.stages}
        return [names[key] for key in self.queue.outcome.done]


def racing(*numbers):
    return [stage for number in numbers for stage in twins("a", "b", number=number, epochs=16)]


def test_only_the_first_competes_and_the_others_share_its_fate():
    race = Race(racing(1, 2, 3, 4))
    assert race.run() == {(number, which) for number in (1, 2, 3) for which in "ab"}
    assert race.done == [(4, "a"), (4, "b")]
    assert {which for _, which, _ in race.handed} == {"a"}
    # As four stages would race, of which no two train the same.
    assert sorted(until or 16 for _, _, until in race.handed) == [2, 2, 2, 2, 4, 4, 8, 16]


@pytest.mark.parametrize("until", [2, 4, None])
def test_one_whose_first_failed_competes_in_its_place(until):
    race = Race(racing(1, 2, 3, 4))
    stopped = race.run(fails=[(4, "a", until)])
    assert race.done == [(4, "b")] and stopped == {(number, which) for number in (1, 2, 3) for which in "ab"}


def test_a_copy_of_what_another_sweep_trained_competes():
    """Nobody else competes for it."""
    mine, other = racing(4)[1], racing(1)[0]
    key = toy("twin", number=4, epochs=16).key
    race = Race([mine, other], done={mine.canonical_key({}): key})
    history = [{"val_by_exit": {"final": 90.0}}] * 16
    copy = race.queue.next()
    row = {"exit": "final", "val_accuracy": 90.0, "relus": 5, "macs": 5, "depth": 5}
    race.queue.done(copy, {"history": history, "rows": [row]})
    assert race.run() == {(1, "a")}
