"""The flags of a search: which go together, what its axes are, and random draws."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick import builder, values_of

from raysp.latency.links import parse_link
from raysp.planning.proposals import Between
from raysp.planning.tune_searchers import ALGORITHMS, TuneAlgorithm
from raysp.planning.weighing import Weighing
from sweeps.searching import axes_of, draw, read_search

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn


def test_every_value_of_an_axis_is_tried_before_anything_trains():
    with pytest.raises(ValueError, match="after stage 9"):
        read_search("optuna", 3, [], values_of(ac_after=((2,), (9,), (3,))), builder(), Weighing())


def test_what_all_proposals_share_tells_searches_apart():
    """Even where it means nothing to the first of them."""
    one, other = (
        read_search("optuna", 3, [], values_of(d_th=(None, 0.3), gamma=(gamma,)), builder(1.0), Weighing())
        for gamma in ("linear", "cosine")
    )
    assert one.id != other.id


def test_what_is_weighed_tells_searches_apart():
    def search(costs, link=None):
        weighing = Weighing(costs=costs, link=link and parse_link(link))
        return read_search("optuna", 3, [], values_of(), builder(1.0), weighing).id

    found = [search(("relus", "macs", "depth")), search(("pred_wan_s",))]
    found += [search(("pred_link_s",), link) for link in ("100mbit,20ms", "100mbit,21ms", "99mbit,20ms")]
    assert len(set(found)) == len(found)
    assert search(("pred_link_s",), "0.1gbit,20000us") == found[2], "a link is its numbers"


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match="expected grid, random, or one of"):
        read_search("annealing", 3, [], values_of(), builder(), Weighing())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_made_or_says_that_it_is_not_usable(name):
    search = read_search(name, 3, [], values_of(), builder(), Weighing())
    try:
        said = TuneAlgorithm(search, []).ask(0)
    except ValueError as error:
        said = str(error)
    assert f"search {name!r} can't be used: " in said or said["budget"] in (0.1, 0.4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("grid", 3, []), "--trials or --between"),
        (("grid", None, ["budgets"]), "--trials or --between"),
        (("random", None, []), "with no --trials"),
        (("random", 0, []), "at least 1"),
        (("optuna", -1, []), "at least 1"),
        (("optuna", 10**9, []), "at most"),
        (("random", 3, ["beta"]), "expected two numbers"),
        (("random", 3, ["d-th"]), "expected two numbers"),
    ],
)
def test_flags_that_do_not_go_together(arguments, said):
    with pytest.raises(ValueError, match=said):
        read_search(*arguments, values_of(), builder(), Weighing())


def test_axes_between_values():
    given = values_of()
    del given["beta"]
    with pytest.raises(ValueError, match="without --beta"):
        axes_of(given, ["beta"])
    with pytest.raises(ValueError, match="no none"):
        axes_of(values_of(d_th=(None, 0.1, 0.3)), ["d-th"])
    with pytest.raises(ValueError, match="not both"):
        axes_of(values_of(budget=(0.1, 400)), ["budgets"])
    with pytest.raises(ValueError, match="one value on every axis"):
        read_search("random", 3, [], values_of(budget=(0.1,)), builder(), Weighing())
    axes = axes_of(values_of(budget=(400, 20, 100), d_th=(0.3, None)), ["budgets"])
    assert axes == {"budget": Between(lowest=20, highest=400, is_log=True), "d_th": (0.3, None)}


def test_limits_of_seconds_can_be_searched_between():
    values = values_of(max_seconds=(12.0, 20.0), link=("wan",))
    assert axes_of(values, ["max-seconds"])["max_seconds"] == Between(lowest=12.0, highest=20.0, is_fine=True)
    search = read_search("optuna", 3, ["max-seconds"], values, builder(), Weighing())
    limits = {
        leaf.config.time_limit.max_seconds
        for seconds in (12.0, 15.5)
        for leaf in search.build({"budget": 0.1, "max_seconds": seconds})
    }
    assert limits == {12.0, 15.5}
    narrow = draw(values_of(max_seconds=(1.2, 1.8), link=("wan",)), ["max-seconds"], 20)
    assert len({one["max_seconds"] for one in narrow}) > 10, "a second is much over a LAN"
    drawn = [one["max_seconds"] for one in draw(values, ["max-seconds"], 5)]
    assert len(set(drawn)) == 5 and all(12 <= seconds <= 20 for seconds in drawn)
    with pytest.raises(ValueError, match="expected two numbers or more"):
        axes_of(values | {"max_seconds": (12.0,)}, ["max-seconds"])


def test_nats_above_one_are_not_rounded_to_whole_ones():
    drawn = [one["gate_loss"] for one in draw(values_of(gate_loss=(1.2, 2.8)), ["gate-loss"], 20)]
    assert len(set(drawn)) == 20 and all(1.2 <= nats <= 2.8 for nats in drawn)


@given(st.floats(0.001, 0.5), st.floats(1.001, 100), st.floats(0, 1), st.booleans())
def test_what_lies_between_stays_between(lowest, ratio, share, is_log):
    axis = Between(lowest=lowest, highest=lowest * ratio, is_log=is_log)
    value = axis.at(share)
    assert axis.lowest <= value <= axis.highest and axis.rounded(value) == value


def test_random_draws_are_distinct_repeatable_and_grow():
    values = values_of(budget=(0.1, 0.4), d_th=(None, 0.1), gamma=("linear", "cosine"))
    five = draw(values, [], 5)
    assert five == draw(values, [], 5) and draw(values, [], 7)[:5] == five
    assert len({json.dumps(one) for one in draw(values, [], 100)}) == len(draw(values, [], 100)) == 8
    assert len(draw(values, ["budgets"], 30)) == 30
    assert len(draw(values_of(budget=(20, 22)), ["budgets"], 30)) == 3
