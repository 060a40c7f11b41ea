import pytest
from toy import diamond, toy

from raysp.planning.plan import JobQueue, Plan

EMPTY = {"history": [], "rows": []}
"""Of a record, what a queue looks at."""


def test_shared_ancestors_count_once():
    plan = Plan(diamond(epochs=3, leaves=4))
    assert [stage.name for stage in plan.stages.values()] == ["root", "left", "right", "leaf", "leaf", "leaf", "leaf"]
    assert plan.epochs == 7 * 3
    assert plan.separate_epochs == 4 * 4 * 3
    assert [(c.name, c.jobs, c.separate_jobs) for c in plan.counts()] == [
        ("root", 1, 4), ("left", 1, 4), ("right", 1, 4), ("leaf", 4, 4)
    ]  # fmt: skip


def test_equal_leaves_are_one():
    assert len(Plan([*diamond(), *diamond()]).leaves) == 3


def test_jobs_wait_for_their_parents_and_longest_chains_come_first():
    short, long = toy(number=1, epochs=1), toy(number=2, epochs=1)
    child = toy("child", {"parent": long}, epochs=5)
    queue = JobQueue(list(Plan([short, child]).stages.values()))
    assert queue.next() is long
    assert queue.next() is short
    assert queue.next() is None
    queue.done(short, EMPTY)
    assert queue.next() is None
    queue.done(long, EMPTY)
    assert queue.next() is child
    assert queue.exhausted


def test_what_is_not_missing_counts_as_done():
    leaves = diamond(leaves=1)
    assert JobQueue(leaves).next() is leaves[0]


def test_a_failure_skips_all_descendants_and_nothing_else():
    leaves = diamond(leaves=2)
    other = toy("other", number=9)
    stages = Plan([*leaves, other]).stages
    queue = JobQueue(list(stages.values()))
    handed = {stage.name: stage for stage in (queue.next(), queue.next())}
    queue.done(handed["root"], EMPTY)
    left = {stage.name: stage for stage in (queue.next(), queue.next())}["left"]
    assert queue.failed(left, "broken") == leaves
    assert queue.outcome.skipped == {leaf.key: f"{left.label} failed" for leaf in leaves}
    assert queue.exhausted
    assert not queue.outcome.ok


@pytest.mark.parametrize(
    "changed",
    [
        lambda: toy(number=1),
        lambda: toy(epochs=4),
        lambda: toy(version=2),
        lambda: toy("other"),
        lambda: toy("toy", {"p": toy()}),
    ],
)
def test_identity_changes_the_key(changed):
    assert changed().key != toy().key


def test_a_parents_change_changes_the_childs_key_and_its_role_counts():
    one, two = toy(number=1), toy(number=2)
    assert toy("c", {"p": one}).key != toy("c", {"p": two}).key
    assert toy("c", {"p": one, "q": two}).key != toy("c", {"p": two, "q": one}).key
