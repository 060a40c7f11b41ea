"""The sum over a network's parts."""

import networks
import pytest
from calibrated import calibration, collapsed, known, members

from raysp.latency.graph import graph_of
from raysp.latency.known import Calibrations
from raysp.latency.links import Link
from raysp.latency.prediction import predict
from raysp.latency.shapes import shape_of
from raysp.latency.tables import COSTS, PartCosts, ReLUCosts
from raysp.models.exits import FINAL
from raysp.models.relu import MaskedReLU

SLOW = Link(name="slow", bits_per_s=8000.0, round_trip_s=0.5)


def test_a_prediction_is_the_sum_of_a_network_s_parts():
    model = networks.gated("resnet18", ac_after=2, in_channels=3)
    for exit_name in (FINAL, "ac2"):
        graph = graph_of(collapsed(model, exit_name))
        layers = sum(shape_of(operation, graph) is not None for operation in graph.operations)
        relu_layers = [o.module.kept for o in graph.operations if isinstance(o.module, MaskedReLU)]
        found = predict(model, exit_name, known(members()), [SLOW])
        parts = layers + len(relu_layers) + sum(relu_layers)
        assert found.time_s == pytest.approx(parts)
        assert found.bytes == pytest.approx(1000 * parts)
        assert found.modelled_s == {"slow": pytest.approx(3 * parts)}
        assert len(found.layers) == layers + len(relu_layers)
        assert (found.calibration, found.fitted) == ("mine", ())


def priced(shape):
    """Another price for each layer."""
    number = sum(map(ord, shape)) % 1009
    return PartCosts(time_s=0.01 * number, bytes=7.0 * number, messages=1.0 + number % 5, round_trips=1.0 + number % 3)


@pytest.mark.parametrize(("head", "exit_name"), [("pool", FINAL), ("bottleneck", "ac2"), ("grid", "ac2")])
def test_the_sum_is_that_of_walking_over_the_network(head, exit_name):
    family = members(heads=(head,))
    found = calibration(family, costs=priced)
    layer = PartCosts(time_s=0.5, bytes=10.0, messages=3.0, round_trips=1.5)
    relu = PartCosts(time_s=0.001, bytes=2.5, messages=0.01, round_trips=0.005)
    renewal = PartCosts(time_s=0.0001, bytes=0.5, messages=0.0, round_trips=0.0)
    costs = ReLUCosts(layer=layer, relu=relu, position_s=1e-5, renewal=renewal)
    calibrations = Calibrations({"mine": type(found)(**{**vars(found), "relu": costs})})
    model = networks.gated("resnet18", ac_after=2, head=head, in_channels=3)
    networks.outer_relu(model, 1).set_mask(networks.outer_relu(model, 1).mask | True)  # one that keeps all
    graph = graph_of(collapsed(model, exit_name))
    slow = dict.fromkeys(COSTS, 0.0)
    for operation in graph.operations:
        if isinstance(operation.module, MaskedReLU):
            kept, size = int(operation.module.mask.sum()), operation.module.mask.numel()
            for name in COSTS:
                slow[name] += getattr(layer, name) + kept * (getattr(relu, name) + getattr(renewal, name))
            slow["time_s"] += 1e-5 * size if kept < size else 0.0
        elif shape := shape_of(operation, graph):
            for name in COSTS:
                slow[name] += getattr(priced(shape), name)
    prediction = predict(model, exit_name, calibrations)
    assert {name: getattr(prediction, name) for name in COSTS} == pytest.approx(slow)
    assert sum(part["bytes"] for part in prediction.layers) == pytest.approx(slow["bytes"])


def test_a_layer_that_was_not_calibrated_is_fitted_and_said():
    model = networks.gated("resnet18", kernel=5, in_channels=3)
    found = predict(model, FINAL, known(members()))
    assert found.fitted == ("stages.0.0.shallow.0", "stages.1.0.shallow.0")
    assert predict(model, FINAL, known(members(kernels=(5,)))).fitted == ()
    assert found.summary()["fitted"] == list(found.fitted) and "layers" not in found.summary()


def test_a_layer_that_nobody_can_tell_is_named():
    model = networks.gated("wrn22-8", in_channels=3)
    with pytest.raises(ValueError, match=r"norm \S+ is in no calibration here \(mine\), and too few like it.*raysp pi calibrate"):
        predict(model, FINAL, known(members()))
