"""Estimates from published constants, against values by hand for one small network."""

import networks
import pytest

from raysp.latency.estimates.interface import Counts, Estimate, LinearLayer, ReLULayer, read_counts
from raysp.latency.estimates.known import ESTIMATORS
from raysp.models.costs import count_costs, estimate_delphi

PLAIN = {"relus": 0, "relu_positions": 0, "macs": 0, "depth": 0, "params": 0, "comparisons": 0}


def layer(name, kind, **counts):
    return PLAIN | {"layer": name, "kind": kind} | counts


SMALL = [
    layer("stem", "conv 3x3, stride 1", macs=1000),
    layer("norm", "norm", params=8),
    layer("stem_relu", "ReLU", relus=100, relu_positions=400),
    layer("a", "conv 3x3, stride 2", macs=2000, depth=1),
    layer("inner_relu", "ReLU", relu_positions=200),  # nothing is left of it
    layer("b", "conv 3x3, stride 1", macs=3000, depth=1),
    layer("shortcut", "conv 1x1, stride 2", macs=500),
    layer("outer_relu", "ReLU", relus=50, relu_positions=300),
    layer("head", "linear", macs=70),
]
"""150 ReLUs in two layers; 6,570 MACs; linear layers give 400, 200, 300, 300 values, and the head's."""


def estimate(name, layers=SMALL):
    return ESTIMATORS[name].estimate(read_counts(layers))


def test_counts_are_read_from_a_record_s_layers():
    counts = read_counts(SMALL)
    assert (counts.relus, counts.macs) == (150, 6570)
    assert counts.relu_layers == (ReLULayer(kept=100, positions=400), ReLULayer(kept=50, positions=300))
    assert [one.outputs for one in counts.linear_layers] == [400, 200, 300, 300, 0]
    assert [one.is_on_path for one in counts.linear_layers] == [True, True, True, False, True]


def test_garbled_circuits_by_hand():
    found = estimate("garbled-circuits")
    assert found.online_s == pytest.approx(150 * 21.82e-6 + 6570 * 0.78e-9)
    assert (found.online_bytes, found.offline_bytes) == (150 * 1184, 150 * 19_088)


def test_function_secret_sharing_by_hand():
    found = estimate("function-secret-sharing")
    assert found.online_s is None
    assert found.online_bytes == 2 * 8 * (150 + 400 + 200 + 300 + 300)
    assert found.offline_bytes == pytest.approx(2 * 150 * 7607 / 8)


def test_ckks_by_hand():
    found = estimate("ckks")
    # Two ReLU layers, and stem, a, b, head on the longest way.
    assert found == Estimate(online_s=pytest.approx((2 * 14 + 4 * 2) * 11_011 / 90 / 16))


def test_ckks_pays_for_a_layer_not_for_its_relus():
    fewer = [*SMALL[:2], layer("stem_relu", "ReLU", relus=1, relu_positions=400), *SMALL[3:]]
    none = [*SMALL[:2], layer("stem_relu", "ReLU", relu_positions=400), *SMALL[3:]]
    assert estimate("ckks", fewer) == estimate("ckks")
    assert estimate("ckks").online_s - estimate("ckks", none).online_s == pytest.approx(14 * 11_011 / 90 / 16)


def test_a_map_that_fills_several_ciphertexts_costs_as_many_times_as_much():
    def wide(positions):
        counts = Counts(
            relu_layers=(ReLULayer(kept=1, positions=positions),),
            linear_layers=(LinearLayer(macs=1, outputs=positions, is_on_path=True),),
        )
        return ESTIMATORS["ckks"].estimate(counts).online_s

    assert wide(2**15) == wide(1) == pytest.approx(11_011 / 90)
    assert wide(2**15 + 1) == pytest.approx(2 * wide(1))


@pytest.mark.parametrize(("blocks", "published_s"), [(3, 2271), (18, 13_282)])
def test_ckks_gives_its_source_s_networks_back(blocks, published_s):
    """ResNet20 and 110: a stem, three stages of so many blocks, a classifier."""
    relu = ReLULayer(kept=16 * 1024, positions=16 * 1024)
    conv = LinearLayer(macs=1, outputs=16 * 1024, is_on_path=True)
    counts = Counts(relu_layers=(relu,) * (6 * blocks + 1), linear_layers=(conv,) * (6 * blocks + 2))
    assert ESTIMATORS["ckks"].estimate(counts).online_s == pytest.approx(published_s, rel=0.04)


def test_a_network_s_own_costs_can_be_read():
    model = networks.gated("resnet18", ac_after=2, blocks=(), in_channels=3)
    costs = count_costs(model)
    counts = read_counts(costs.by_layer())
    assert (counts.relus, counts.macs) == (costs.relus, costs.macs)
    assert sum(one.is_on_path for one in counts.linear_layers) == costs.depth + 2  # the first convolution, and the classifier
    told = estimate_delphi(costs.relus, costs.macs, None)
    assert ESTIMATORS["garbled-circuits"].estimate(counts).online_bytes == told["est_delphi_online_bytes"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (layer("pool", "MaxPool2d", comparisons=3), "layer pool takes maxima"),
        ({"layer": "x", "relus": 1}, "layer x doesn't say its ReLUs"),
        ("x", "expected a record's costs"),
        (layer("x", "ReLU", relus=-1, relu_positions=1), "layer x has counts that are none"),
        (layer("x", "ReLU", relus=2, relu_positions=1), "layer x keeps 2 ReLUs of 1"),
        (layer("x", "linear", macs=2.5), "layer x has counts that are none"),
        (layer("x", "linear", macs=2**41), "layer x has counts that are none"),
    ],
)
def test_unknown_layers_are_not_estimated(bad, message):
    with pytest.raises(ValueError, match=message):
        read_counts([*SMALL, bad])


def test_records_of_before_maxima_were_counted_are_read():
    old = [{name: value for name, value in one.items() if name != "comparisons"} for one in SMALL]
    assert read_counts(old) == read_counts(SMALL)


def test_every_protocol_says_what_it_is_and_its_source():
    for name, one in ESTIMATORS.items():
        assert (
            one.name == name and one.what.endswith(".") and any(year in one.source for year in ("2019", "2020", "2021", "2022"))
        )
