"""What can't be predicted is refused before anything is trained."""

import dataclasses

import pytest
from quick import builder

from raysp.latency.known import Calibrations, packaged
from raysp.latency.prediction import parts_of
from raysp.methods.choices import Choice
from raysp.models.exits import FINAL
from raysp.planning.weighing import Weighing
from raysp.stages.predictable import check_predicted


def test_own_calibrations_must_know_the_network():
    name, one = next(iter(packaged().named.items()))
    other = Calibrations({"mine.json": dataclasses.replace(one, layers={n: c for n, c in one.layers.items() if "linear" in n})})
    with pytest.raises(ValueError, match=r"--calibration mine.json has no layer of resnet18: .*; make one of this"):
        check_predicted(builder().network, Weighing(calibrations=other), [])
    outline = builder().network
    mine = dict.fromkeys((part.shape for part in parts_of(outline, FINAL) if part.shape), next(iter(one.layers.values())))
    check_predicted(outline, Weighing(calibrations=Calibrations({name: dataclasses.replace(one, layers=mine)})), [])


def test_own_calibrations_must_know_what_is_made_of_the_network_too():
    """Calibrations are of one kernel and of one kind of head, unless more were asked for."""
    bare = builder().network
    name, one = next(iter(packaged().named.items()))
    cost = next(iter(one.layers.values()))
    mine = {part.shape: cost for part in parts_of(bare, FINAL) if part.shape}
    weighing = Weighing(costs=("pred_bytes",), calibrations=Calibrations({name: dataclasses.replace(one, layers=mine)}))
    check_predicted(bare, weighing, [Choice(budget=0.1)])
    with pytest.raises(ValueError, match=r"pred_bytes of resnet18 can't be weighed: heads\.ac2\..*--heads"):
        check_predicted(bare, weighing, [Choice(budget=0.1), Choice(budget=0.1, ac_after=(2,), ac_head="grid")])
