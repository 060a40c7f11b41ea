"""Accuracy by class, as a record keeps it."""

import json

import numpy as np
import pytest

from raysp.store.classes import BY_CLASS, NAMES, by_class, named, percent_of, spread, why_not, worst_class


def test_a_record_keeps_the_share_of_every_class_that_has_images():
    kept = by_class([3, 0, 100], {"final": [2, 0, 100], "ac3": [0, 0, 7]})
    assert kept == {"images": [3, 0, 100], "percent": {"final": [66.67, None, 100.0], "ac3": [0.0, None, 7.0]}}
    assert percent_of({BY_CLASS: kept}, "ac3") == [0.0, None, 7.0]
    assert percent_of({BY_CLASS: kept}, "ac2") == percent_of({}, "final") == []


def test_a_thousand_classes_stay_small_and_every_image_can_be_told():
    images = np.random.default_rng(0).integers(1, 9999, 1000).tolist()
    hits = [number // 3 for number in images]
    kept = by_class(images, {"final": hits})
    assert len(json.dumps(kept)) < 14_000
    assert [round(p * n / 100) for p, n in zip(kept["percent"]["final"], images, strict=True)] == hits


@pytest.mark.parametrize(
    ("percent", "worst", "deviation"),
    [
        ([90.0, None, 70.0, 70.0], 2, np.std([90, 70, 70])),
        ([50.0], 0, 0.0),
        ([None, None], None, None),
        ([], None, None),
        ([0.0, 100.0], 0, 50.0),
    ],
)
def test_the_worst_class_and_the_spread_leave_out_what_has_no_images(percent, worst, deviation):
    assert worst_class(percent) == worst
    assert spread(percent) == (None if deviation is None else pytest.approx(deviation))


def test_names_are_text_whatever_a_folder_is_called():
    assert named(()) == {}
    kept = named(("cat", "l\n\udc80", "b\u00e4r"))
    assert kept == {NAMES: ["cat", "l\\n\\udc80", "b\u00e4r"]}
    assert why_not(json.loads(json.dumps(kept))) == ""


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({NAMES: [1, 2]}, "not lines of text"),
        ({NAMES: ["a\nb"]}, "not lines of text"),
        ({BY_CLASS: [1]}, "lacks a count of images"),
        ({BY_CLASS: {"images": [1.5], "percent": {}}}, "lacks a count of images"),
        ({BY_CLASS: {"images": [1], "percent": [1]}}, "lacks a count of images"),
        ({BY_CLASS: {"images": [1, 1], "percent": {"final": [50.0]}}}, "no percentage for each of 2 classes"),
        ({BY_CLASS: {"images": [1], "percent": {"final": [101.0]}}}, "no percentage for each of 1 classes"),
        ({BY_CLASS: {"images": [1], "percent": {"final": [float("nan")]}}}, "no percentage for each of 1 classes"),
        ({BY_CLASS: {"images": [1], "percent": {"final": [None]}}}, "no percentage for each of 1 classes"),
        ({BY_CLASS: {"images": [0], "percent": {"final": [10.0]}}}, "no percentage for each of 1 classes"),
    ],
)
def test_what_is_not_of_this_form_is_named(metrics, reason):
    assert reason in why_not(metrics)


def test_records_of_before_have_nothing_to_refuse():
    assert why_not({}) == why_not({BY_CLASS: by_class([1, 0], {"final": [1, 0]})}) == ""
