"""What networks take with blocks gated, against networks that were gated."""

import copy
import dataclasses
import random

import networks
import pytest
import torch
from calibrated import calibration, known, members

from raysp.latency.gated import GatedCosts
from raysp.latency.known import Calibrations, packaged
from raysp.latency.prediction import predict
from raysp.latency.tables import COSTS, PartCosts, ReLUCosts
from raysp.models import build_model
from raysp.models.exits import FINAL


def plain(name):
    with torch.device("meta"):
        return build_model(name, num_classes=7, image_size=16, in_channels=3, width=4)


@pytest.mark.parametrize("name", networks.NAMES)
@pytest.mark.parametrize("kernel", [3, 5])
def test_any_choice_of_blocks_takes_what_is_predicted_of_the_network_that_comes_of_it(name, kernel):
    costs = GatedCosts(plain(name), kernel_size=kernel, calibrations=packaged())
    chance = random.Random(name)
    for number in range(4):
        model = networks.randomise(build_model(name, num_classes=7, image_size=16, in_channels=3, width=4), seed=number)
        first, *_, last = (layer.relu for layer in model.relu_layers())
        first.set_mask(torch.ones_like(first.mask))
        last.set_mask(torch.zeros_like(last.mask))
        kept = {layer.name: layer.relu.kept for layer in model.relu_layers()}
        gated = [block for block, _ in model.gated_blocks() if chance.random() < number / 3]
        for block, view in model.gated_blocks():
            if block in gated:
                view.add_shallow_branch(kernel)
        found, expected = costs.costs(gated, kept), predict(model, FINAL, packaged())
        assert {cost: getattr(found, cost) for cost in COSTS} == pytest.approx({cost: getattr(expected, cost) for cost in COSTS})


def kept_anyhow(layers, gone, budget, chance):
    """Random counts of a budget over layers that stay, by layer: the first of a random order are filled, or all get a few."""
    kept, left = dict.fromkeys((layer.name for layer in layers), 0), budget
    order = [layer for layer in layers if layer.name not in gone]
    chance.shuffle(order)
    share = chance.choice([1.0, 0.5, 0.05])
    while left:
        for layer in order:
            more = min(left, layer.relu.size - kept[layer.name], max(1, round(share * layer.relu.size)))
            kept[layer.name], left = kept[layer.name] + more, left - more
    return kept


@pytest.mark.parametrize("name", networks.NAMES)
def test_whatever_the_masks_a_network_takes_what_its_bounds_say(name):
    model = plain(name)
    costs, layers, chance = GatedCosts(model, kernel_size=3, calibrations=packaged()), model.relu_layers(), random.Random(name)
    inner = {chain.name: chain.inner for chain in model.chains}
    assert costs.blocks == tuple(inner)
    for _ in range(30):
        gated = [block for block in inner if chance.random() < 0.5]
        gone = {inner[block] for block in gated}
        room = sum(layer.relu.size for layer in layers if layer.name not in gone)
        budget = chance.randint(2, room)
        least, most = costs.bounds(gated, (budget, budget))
        found = costs.costs(gated, kept_anyhow(layers, gone, budget, chance))
        for cost in COSTS:
            low, value, high = (getattr(one, cost) for one in (least, found, most))
            assert low <= value + 1e-9 * abs(value) and value <= high + 1e-9 * abs(high)
        fewer, more = costs.bounds(gated, (0, budget + 1))
        assert fewer.time_s <= least.time_s and most.time_s <= more.time_s
    nothing, _ = costs.bounds(list(inner), (0, 0))
    assert nothing == costs.costs(list(inner), dict.fromkeys((layer.name for layer in layers), 0))
    assert costs.bounds([], (room * 9, room * 9)) == costs.bounds([], (model.num_relus(), model.num_relus()))


def test_the_network_stays_as_it_is():
    model = plain("resnet18")
    before = copy.deepcopy(model.graph)
    GatedCosts(model, kernel_size=3, calibrations=known(members()))
    assert model.graph == before and not any(chain.gate for chain in model.chains)


def test_a_network_of_which_a_layer_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match=r"no calibration has norm .*: the seconds of wrn22-8 can't be predicted"):
        GatedCosts(plain("wrn22-8"), kernel_size=3, calibrations=known(members()))


def test_calibrations_that_tell_the_same_have_one_digest():
    family = members()
    mine = calibration(family)
    dearer = calibration(family, costs=lambda shape: PartCosts(time_s=2.0, bytes=1.0, messages=1.0, round_trips=1.0))
    relu = ReLUCosts(**{**vars(mine.relu), "position_s": 1.0})
    others = [
        {"mine": dearer},
        {"mine": dataclasses.replace(mine, relu=relu)},
        {"mine": mine, "other": dearer},
        {"other": dearer, "mine": mine},
    ]
    digests = [Calibrations(named).digest for named in ({"mine": mine}, *others)]
    assert len(set(digests)) == len(digests)
    assert Calibrations({"renamed": dataclasses.replace(mine, machine=mine.machine, others_cores=1.0)}).digest == digests[0]
