"""The choice of blocks that lose least for the seconds that they save."""

import math

import pytest

from raysp.methods import gates_in_time as module
from raysp.methods.gates_in_time import gates_in_time


def summed(base, saved):
    """Seconds of a network whose blocks each save so much."""
    return lambda gated: base - math.fsum(saved[name] for name in gated)


LOSSES = {"a": 0.1, "b": 0.2, "c": 0.25, "d": 0.9}
SAVED = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 6.0}


@pytest.fixture(params=["all subsets", "step by step"])
def way(request, monkeypatch):
    if request.param == "step by step":
        monkeypatch.setattr(module, "EXACT", 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("limit", "blocks"),
    [(20, ()), (21, ()), (19, ("a",)), (18, ("b",)), (17, ("a", "b")), (16, ("b", "c")), (15, ("a", "b", "c"))],
)
def test_no_more_is_lost_than_the_limit_takes(limit, blocks):
    found = gates_in_time(LOSSES, summed(20, SAVED), limit)
    assert (found.blocks, found.meets) == (blocks, True)
    assert found.seconds == 20 - sum(SAVED[name] for name in blocks) <= limit
    assert found.divergence == pytest.approx(sum(LOSSES[name] for name in blocks))


def test_of_few_blocks_the_choice_is_the_best():
    # For a second saved `a` loses less than `b`, and with it both are needed; `b` does it alone.
    losses, seconds = {"a": 0.1, "b": 0.3, "c": 0.25}, summed(10, {"a": 1.0, "b": 2.9, "c": 2.0})
    assert gates_in_time(losses, seconds, 7.1).blocks == ("b",)
    assert gates_in_time(losses, seconds, 7.0).blocks == ("a", "c")


@pytest.mark.usefixtures("way")
def test_where_no_choice_meets_the_limit_all_that_help_are_gated_and_none_that_does_not():
    saved = {"a": 1.0, "b": 0.0, "c": -1.0, "d": 6.0}
    found = gates_in_time({**LOSSES, "b": 0.0, "c": 0.0}, summed(20, saved), 12)
    assert (found.blocks, found.seconds, found.meets) == (("a", "d"), 13, False)


@pytest.mark.usefixtures("way")
def test_what_a_block_saves_is_asked_beside_the_others():
    # Together they save 5, alone 1 and 3.
    def seconds(gated):
        return {frozenset(): 10, frozenset("a"): 9, frozenset("b"): 7, frozenset("ab"): 5}[gated]

    found = gates_in_time({"a": 0.1, "b": 0.1}, seconds, 6)
    assert (found.blocks, found.seconds, found.meets) == (("a", "b"), 5, True)


@pytest.mark.usefixtures("way")
def test_of_equal_losses_fewer_blocks_are_gated_and_those_that_lose_nothing_first():
    assert gates_in_time({"a": 0.0, "b": 0.0}, summed(10, {"a": 1.0, "b": 2.0}), 10).blocks == ()
    assert gates_in_time({"a": 0.0, "b": 0.1}, summed(10, {"a": 1.0, "b": 9.0}), 9).blocks == ("a",)


def test_of_many_blocks_what_proves_needless_is_taken_back():
    names = [f"{number}" for number in range(module.EXACT + 1)]
    losses = dict.fromkeys(names, 5.0) | {"0": 0.1, "1": 0.8}
    saved = dict.fromkeys(names, 0.1) | {"0": 1.0, "1": 7.0}
    # For a second saved `0` loses less than `1`, so it comes first; but `1` is needed, and then both are more than enough.
    found = gates_in_time(losses, summed(20, saved), 13.0)
    assert (found.blocks, found.seconds, found.meets) == (("1",), 13.0, True)
