"""Calibrations: their files, and several of them as one."""

import dataclasses
import json

import pytest
from calibrated import PART, calibration, members, shapes_in

from raysp.latency.known import Calibrations, packaged, read_calibrations
from raysp.latency.tables import PartCosts, read_calibration


def test_a_calibration_survives_its_file(tmp_path):
    known = calibration(members())
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(known.to_json()))
    assert read_calibration(path) == known
    path.write_text('{"format": 1}')
    with pytest.raises(ValueError, match="not a calibration"):
        read_calibration(path)
    with pytest.raises(ValueError, match="expected a file that"):
        read_calibration(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is no JSON: line 1, column 1"),
        ('{"format": 1,\n "protocol"', "it is no JSON: line 2, column 12"),
        ("[]", "it holds something else"),
        ("{}", "it has no format"),
        (b"\xff\xfe\x00", "it is no text"),
        ('{"format": 1}', "it has no protocol"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_no_calibration_is_told_without_the_language_s_own_words(content, said, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - its text is looked at
        read_calibration(path)
    assert str(refused.value) == f"{path}: not a calibration ({said}); make it anew: raysp pi calibrate"


@pytest.mark.parametrize(
    "change",
    [
        lambda found: next(iter(found["layers"].values())).update(time_s="3"),
        lambda found: next(iter(found["layers"].values())).update(bytes=float("nan")),
        lambda found: next(iter(found["layers"].values())).update(bytes=-1.0),
        lambda found: found["relu"].update(position_s=None),
        lambda found: found["relu"]["renewal"].update(messages=True),
        lambda found: found.update(protocol="aby3"),
        lambda found: found.update(layers=3),
        lambda found: found.update(machine="mine"),
        lambda found: found.update(engine=["spu"]),
        lambda found: found.update(others_cores="lots"),
        lambda found: next(iter(found["layers"].values())).update(bytes=1.7e308),
        lambda found: next(iter(found["layers"].values())).update(bytes=10**400),
    ],
)
def test_a_calibration_is_read_with_mistrust(change, tmp_path):
    content = calibration(members()).to_json()
    change(content)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a calibration"):
        read_calibration(path)


@pytest.mark.parametrize(
    "change", [{"protocol": "semi2k"}, {"machine": {"cpus": 64}}, {"versions": {"spu": "2"}}, {"engine": "numpy"}]
)
def test_calibrations_that_do_not_belong_together_are_refused(change):
    one, other = calibration(members()), calibration(members(), **change)
    with pytest.raises(ValueError, match=r"mine and theirs are of another .*their costs can't be added"):
        Calibrations({"mine": one, "theirs": other})


def test_no_calibration_is_refused():
    with pytest.raises(ValueError, match="no calibration; expected"):
        read_calibrations([])


def test_a_network_is_told_by_the_calibration_that_has_most_of_it():
    small, large = members(), members(image_size=32)
    cheap, dear = PartCosts(time_s=1, bytes=1, messages=1, round_trips=1), PartCosts(time_s=9, bytes=9, messages=9, round_trips=9)
    known = Calibrations(
        {
            "small": calibration(small, relu=cheap, costs=lambda shape: cheap),
            "large": calibration(large, relu=dear, costs=lambda shape: dear),
        }
    )
    for networks_, name, relu in ((small, "small", cheap), (large, "large", dear)):
        told = known.told(shapes_in(networks_))
        assert (told.calibration, told.relu.relu) == (name, relu)
        assert set(told.costs.values()) == {relu}
        assert not told.fitted and not told.open
    both = known.told([*shapes_in(small), "conv 3x3, stride 1, 4x32x32 to 4"])
    assert both.calibration == "small" and both.costs["conv 3x3, stride 1, 4x32x32 to 4"] == dear


def test_those_of_the_package_tell_every_layer_of_their_families():
    known = packaged()
    assert known.first.protocol == "cheetah"
    for found in known.named.values():
        assert found.layers and found.relu.relu.bytes > 0
        told = known.told(list(found.layers))
        assert not told.fitted and not told.open
    quick = known.told(
        shapes_in(members(image_size=8, in_channels=1, width=16, num_classes=10))
    )  # what `raysp sweep budget` trains
    assert not quick.fitted


def test_costs_add_up_field_by_field():
    two = dataclasses.replace(PART, bytes=1.0) + PART
    assert (two.time_s, two.bytes, two.messages, two.round_trips) == (2.0, 1001.0, 8.0, 4.0)
