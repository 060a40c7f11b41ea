"""Links as a user writes them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysp.latency.links import BITS, LAN, SECONDS, WAN, Link, parse_link

NUMBERS = st.decimals(min_value="0.001", max_value=100_000, places=3).map(lambda number: f"{number:f}")


@settings(max_examples=50, deadline=None)
@given(
    bandwidth=NUMBERS,
    unit=st.sampled_from(list(BITS)),
    trip=NUMBERS,
    of_time=st.sampled_from(list(SECONDS)),
    spaces=st.booleans(),
)
def test_a_link_is_what_its_words_say(bandwidth, trip, spaces, unit, of_time):
    text = f"{bandwidth}{unit},{trip}{of_time}"
    found = parse_link(f" {text.upper().replace(',', ' , ')} " if spaces else text)
    assert found.name == text
    assert found.bits_per_s == pytest.approx(float(bandwidth) * {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[unit])
    assert found.round_trip_s == pytest.approx(float(trip) * {"us": 1e-6, "ms": 1e-3, "s": 1}[of_time])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_other_text_is_refused_or_a_sound_link(text):
    try:
        found = parse_link(text)
    except ValueError as error:
        assert "expected lan, wan, or a bandwidth" in str(error)  # noqa: PT017
    else:
        assert found.bits_per_s > 0 and found.round_trip_s >= 0


def test_two_are_known_by_name():
    assert parse_link("LAN") is LAN and parse_link("wan") is WAN


BAD = ["", "100mbit", "100mbit,20", "0mbit,20ms", "-1mbit,20ms", "100mbit,-20ms", "100,20", "1e3mbit,20ms", "20ms,100mbit"]
BAD += ["nanmbit,1s", "٣mbit,1s"]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_link_is_refused(text):
    with pytest.raises(ValueError, match="expected lan, wan, or a bandwidth above 0 and a round trip, such as 100mbit,20ms"):
        parse_link(text)


def test_an_endless_number_is_refused():
    with pytest.raises(ValueError, match="expected more than 0"):
        parse_link(f"{'9' * 400}mbit,1ms")


@given(
    time_s=st.floats(0, 1e4),
    num_bytes=st.floats(0, 1e10),
    trips=st.floats(0, 1e5),
    bits=st.floats(1e3, 1e11),
    trip_s=st.floats(0, 10),
)
def test_a_link_adds_its_traffic_and_its_waits(time_s, num_bytes, trips, bits, trip_s):
    link = Link(name="any", bits_per_s=bits, round_trip_s=trip_s)
    slower = Link(name="slower", bits_per_s=bits / 2, round_trip_s=2 * trip_s)
    found = link.modelled_s(time_s=time_s, num_bytes=num_bytes, round_trips=trips)
    assert found >= time_s
    added = found - time_s
    assert slower.modelled_s(time_s=time_s, num_bytes=num_bytes, round_trips=trips) - time_s == pytest.approx(2 * added, abs=1e-6)
