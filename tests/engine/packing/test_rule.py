"""How many stages belong on one GPU: the rule, and the line that tells it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import diamond, toy

from raysp.engine.packing.rule import MOST, WORTH, Bound, Measured, at_once, bound, fitting, kept, numbers, share, told
from raysp.engine.ray.cluster import Request

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
GB = 10**9


@pytest.mark.parametrize(
    ("rates", "number"),
    [
        ({}, 1),
        ({1: 55.0}, 1),
        ({1: 55.0, 2: 105.0, 4: 174.0, 8: 279.0, 15: 280.0}, 8),
        ({1: 280.0, 2: 300.0}, 1),
        ({1: 280.0, 2: 320.0, 4: 330.0}, 2),
        ({1: 1.0, 2: 1.1}, 2),
        ({1: 1.0, 2: 0.5, 4: 9.0}, 1),
    ],
)
def test_more_are_put_on_a_gpu_while_they_gain_a_tenth(rates, number):
    assert kept(rates) == number


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=6), st.integers(1, MOST))
def test_what_is_kept_was_measured_and_no_next_one_was_worth_it(speeds, most):
    rates = dict(zip(numbers(most), speeds, strict=False))
    number = kept(rates)
    tried = sorted(rates)
    assert number in tried
    following = tried[tried.index(number) + 1 :][:1]
    assert all(rates[more] < WORTH * rates[number] for more in following)
    assert rates[number] >= rates[1]


@given(st.integers(1, MOST))
def test_ray_finds_room_for_as_many_as_were_meant(number):
    request = Request(num_threads=1, gpus=share(number))
    assert request.slots([{"CPU": 1000.0, "GPU": 1.0}]) == number
    assert round(share(number) * 1e4) * number <= 1e4, "in Ray's own units"


@pytest.mark.parametrize(("most", "tried"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (15, [1, 2, 4, 8, 15])])
def test_numbers_that_are_tried(most, tried):
    assert numbers(most) == tried


@pytest.mark.parametrize(
    ("memory", "room", "number"),
    [
        (None, None, MOST),
        (GB, None, MOST),
        (GB, 78 * GB, 70),
        (61 * GB, 78 * GB, 1),
        (90 * GB, 78 * GB, 1),
        (30 * GB, 70 * GB, 2),
    ],
)
def test_memory_holds_some(memory, room, number):
    assert fitting(memory, room) == number


@pytest.mark.parametrize(
    ("given", "most", "because"),
    [
        ({"cores": 16, "threads": 1, "gpus": 1, "at_once": 100}, 16, "16 CPU cores for each GPU, and 1 for each stage"),
        ({"cores": 16, "threads": 3, "gpus": 1, "at_once": 100}, 5, "3 for each stage"),
        ({"cores": 0.5, "threads": 1, "gpus": 2, "at_once": 100}, 1, "0.5 CPU cores"),
        ({"cores": 16, "threads": 1, "gpus": 4, "at_once": 10}, 3, "no more are ready at the same time"),
        ({"cores": 16, "threads": 1, "gpus": 1, "at_once": 1}, 1, "no more are ready at the same time"),
        ({"cores": 256, "threads": 1, "gpus": 1, "at_once": 1000}, MOST, "more aren't tried"),
    ],
)
def test_bounds_that_nothing_need_be_measured_for(given, most, because):
    found = bound(**given)
    assert found.most == most and because in found.because


def test_stages_that_are_ready_at_the_same_time():
    assert at_once([]) == 0
    assert at_once([toy()]) == 1
    leaves = diamond(leaves=5)
    lineage = list({stage.key: stage for leaf in leaves for stage in leaf.lineage()}.values())
    assert at_once(lineage) == 5
    assert at_once(lineage[:3]) == 2
    assert at_once(leaves) == 5, "what is found doesn't count"


ENOUGH = Bound(16, "16 CPU cores for each GPU, and 1 for each stage")


@pytest.mark.parametrize(
    ("measured", "limit", "line"),
    [
        (
            Measured(rates={1: 55.0, 2: 105.0, 4: 174.0, 8: 180.0}, memory=GB, room=78 * GB), ENOUGH,
            "GPUs: 4 stages on each, 3.2 times as fast as one (8 gain 3 % more), MPS started",
        ),
        (
            Measured(rates={1: 1.0, 2: 2.0, 4: 3.0, 8: 3.0}), ENOUGH,
            "GPUs: 4 stages on each, 3.0 times as fast as one (8 gain nothing more), MPS started",
        ),
        (Measured(rates={1: 1.0, 2: 0.9}), ENOUGH, "GPUs: one stage on each: 2 gain nothing more"),
        (
            Measured(rates={1: 1.0}, memory=61 * GB, room=78 * GB), ENOUGH,
            "GPUs: one stage on each: no room for 2: one takes 61 of 78 GB",
        ),
        (
            Measured(rates={1: 1.0, 2: 2.0}, memory=30 * GB, room=78 * GB), ENOUGH,
            "GPUs: 2 stages on each, 2.0 times as fast as one (no room for 3: one takes 30 of 78 GB), MPS started",
        ),
        (
            Measured(rates={1: 1.0, 2: 2.0}, memory=GB, room=78 * GB), Bound(2, "no more are ready at the same time"),
            "GPUs: 2 stages on each, 2.0 times as fast as one (no more are ready at the same time), MPS started",
        ),
        (
            Measured(rates={}), Bound(1, "no more are ready at the same time"),
            "GPUs: one stage on each: no more are ready at the same time",
        ),
        (
            Measured(rates={}, failed="it couldn't be measured (no GPU)"), ENOUGH,
            "GPUs: one stage on each: it couldn't be measured (no GPU)",
        ),
        (
            Measured(rates={1: 1.0, 2: 2.0}, failed="4 at once failed (out of memory)"), ENOUGH,
            "GPUs: 2 stages on each, 2.0 times as fast as one (4 at once failed (out of memory)), MPS started",
        ),
    ],
)  # fmt: skip
def test_one_line_tells_what_is_done_and_why_no_more(measured, limit, line):
    assert told(measured, limit, "MPS started") == line
