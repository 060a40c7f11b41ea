"""What private inference needs no engine for: the walk, the statistics' log, the files, the sum of the cost model."""

import json
import threading

import networks
import pytest
import torch
from PIL import Image

from raysp.models import build_model
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.exits import FINAL
from raysp.models.relu import MaskedReLU
from raysp.pi import MeasureOptions, machine, read_measurements, require_engine
from raysp.pi.calibration import Calibration, PartCosts, ReLUCosts, family, parts_of, read_calibration
from raysp.pi.files import FORMAT
from raysp.pi.graph import graph_of
from raysp.pi.prediction import Link, predict
from raysp.pi.shapes import shape_of
from raysp.pi.statistics import parse
from raysp.pi.stored import read_image

LOG = """
 [info] - pphlo.convolution, executed 20 times, duration 1.0230e+00s, send bytes 4042072 recv bytes 4083096, send actions 50, recv actions 43
 [info] - pphlo.less, executed 17 times, duration 6.6182605e-02s, send bytes 150688 recv bytes 28832, send actions 306, recv actions 306
 [info] HAL profiling: total time 1.1615620240000002
 [info] - f_less, executed 17 times, duration 0.06612612s, send bytes 150688 recv bytes 28832, send actions 306, recv actions 306
 [info] Link details: total send bytes 4338020, recv bytes 4314666, send actions 392, recv actions 385
"""  # noqa: E501
PART = PartCosts(time_s=1.0, bytes=1000.0, messages=4.0, round_trips=2.0)
NOTHING = PartCosts(time_s=0.0, bytes=0.0, messages=0.0, round_trips=0.0)


@pytest.mark.parametrize("name", networks.NAMES)
@pytest.mark.parametrize(("exit_name", "head"), [(FINAL, "bottleneck"), ("ac2", "bottleneck"), ("ac2", "grid")])
def test_the_walk_computes_what_the_network_computes(name, exit_name, head):
    model = networks.gated(name, ac_after=2, head=head, in_channels=3)
    model.set_gates(1.0)
    networks.outer_relu(model, 1).set_mask(torch.zeros(networks.outer_relu(model, 1).shape, dtype=torch.bool))
    plain = fold_batchnorm(collapse(model, exit_name))
    graph = graph_of(plain)
    image = torch.randn(1, 3, 16, 16)
    values = {graph.input_name: image}
    with torch.inference_mode():
        for operation in graph.operations:
            inputs = [values[name].clone() for name in operation.inputs]
            values[operation.name] = torch.add(*inputs) if operation.module is None else operation.module(*inputs)
            assert tuple(values[operation.name].shape[1:]) == operation.shape
        torch.testing.assert_close(values[graph.operations[-1].name], plain(image).logits[exit_name])
    relus = sum(o.module.kept for o in graph.operations if isinstance(o.module, MaskedReLU))
    assert relus == count_costs(model, exit_name).relus


def test_a_network_that_is_not_collapsed_is_refused():
    with pytest.raises(ValueError, match="expected a collapsed one"):
        graph_of(networks.gated("resnet18", ac_after=2, in_channels=3))


def test_the_engine_s_log():
    found = parse(LOG)
    assert (found.sent_bytes, found.messages) == (4338020, 392)
    assert [(o.operation, o.times, o.sent_bytes, o.messages) for o in found.operations] == [
        ("convolution", 20, 4042072, 50),
        ("less", 17, 150688, 306),
    ]
    assert found.operations[1].wall_s == pytest.approx(0.066182605)
    for text in ("", LOG + LOG):
        with pytest.raises(ValueError, match="runs in the engine's log; expected one"):
            parse(text)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^private inference needs spu and jax: pip install -e '\.\[pi\]'.*$"):
        require_engine()


WEIGHTS = {"bytes": 4, "sha256": "ab"}
GOOD = {"format": FORMAT, "exit": "final", "protocol": "cheetah", "weights": WEIGHTS, "time_s": 1.5, "bytes": 10.5}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": {"bytes": 4, "sha256": "cd"}}, "measured with other weights"),
        ({"format": 0}, "not a measurement of format"),
        ({"protocol": "semi2k"}, "not a measurement of format"),
        ({"time_s": -1.0}, "expected a number of at least 0"),
        ({"time_s": float("nan")}, "expected a number of at least 0"),
        ({"bytes": "many"}, "expected a number of at least 0"),
        ({"predicted": {"time_s": 1.0}}, "not a measurement of ours"),
    ],
)
def test_measurements_are_read_with_mistrust(change, reason, tmp_path):
    record = {"files": {"weights.safetensors": WEIGHTS}}
    (tmp_path / "pi-ac3-semi2k.json").write_text(json.dumps(GOOD | {"exit": "ac3", "protocol": "semi2k"}))
    (tmp_path / "pi-final-cheetah.json").write_text(json.dumps(GOOD | change))
    (tmp_path / "pi-notes.json").write_text("{")
    found, damaged = read_measurements(tmp_path, record)
    assert [(m.exit, m.protocol, m.time_s, m.bytes, m.predicted_s) for m in found] == [("ac3", "semi2k", 1.5, 10.5, None)]
    assert [error.path.name for error in damaged] == ["pi-final-cheetah.json"]
    assert reason in damaged[0].reason


def calibration(networks_, relu=PART):
    layers, _ = parts_of(networks_)
    costs = ReLUCosts(layer=PART, relu=relu, position_s=0.0, renewal=NOTHING)
    return Calibration(
        protocol="cheetah", family={}, layers=dict.fromkeys(layers, PART), relu=costs, versions={}, machine={}, others_cores=0.0
    )


def members(kernels=(3,), heads=("pool",)):
    return family("resnet18", num_classes=7, image_size=16, in_channels=3, width=4, kernels=kernels, heads=heads)


def test_a_prediction_is_the_sum_of_a_network_s_parts():
    known = calibration(members())
    model = networks.gated("resnet18", ac_after=2, in_channels=3)
    for exit_name in (FINAL, "ac2"):
        graph = graph_of(fold_batchnorm(collapse(model, exit_name)))
        layers = sum(shape_of(operation, graph) is not None for operation in graph.operations)
        relu_layers = [o.module.kept for o in graph.operations if isinstance(o.module, MaskedReLU)]
        found = predict(model, exit_name, known, [("slow", Link(bits_per_s=8000.0, round_trip_s=0.5))])
        parts = layers + len(relu_layers) + sum(relu_layers)
        assert found.time_s == pytest.approx(parts)
        assert found.bytes == pytest.approx(1000 * parts)
        assert found.modelled_s == {"slow": pytest.approx(3 * parts)}
        assert len(found.layers) == layers + len(relu_layers)


def test_a_layer_that_was_not_calibrated_is_named():
    model = networks.gated("resnet18", kernel=5, in_channels=3)
    with pytest.raises(ValueError, match=r"stages.0.0.shallow.0: conv 5x5, stride 1, 4x16x16 to 4 is not in the calibration"):
        predict(model, FINAL, calibration(members()))
    assert predict(model, FINAL, calibration(members(kernels=(5,)))).time_s > 0


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
    "change",
    [
        lambda found: next(iter(found["layers"].values())).update(time_s="3"),
        lambda found: next(iter(found["layers"].values())).update(bytes=float("nan")),
        lambda found: next(iter(found["layers"].values())).update(bytes=-1.0),
        lambda found: found["relu"].update(position_s=None),
        lambda found: found["relu"]["renewal"].update(messages=True),
        lambda found: found.update(protocol="aby3"),
        lambda found: found.update(layers=3),
    ],
)
def test_a_calibration_is_read_with_mistrust(change, tmp_path):
    content = calibration(members()).to_json()
    change(content)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a calibration"):
        read_calibration(path)


@pytest.mark.parametrize("wrong", [{"kernels": (4,)}, {"heads": ("big",)}])
def test_a_family_of_what_there_is_not_is_refused(wrong):
    with pytest.raises(ValueError, match="expected kernels of 3 or 5, heads of pool, bottleneck, grid"):
        members(**wrong)


def test_a_picture_is_resized_and_normalised(tmp_path):
    model = build_model("resnet18", num_classes=10, image_size=8, in_channels=3, width=4)
    model.input_mean, model.input_std = [0.5, 0.5, 0.0], [0.25, 0.5, 1.0]
    Image.new("RGB", (20, 10), (255, 0, 51)).save(tmp_path / "picture.png")
    image = read_image(tmp_path / "picture.png", model)
    assert image.shape == (3, 8, 8)
    assert image[:, 3, 3].tolist() == pytest.approx([2.0, -1.0, 0.2])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a picture"):
        read_image(tmp_path / "text.png", model)


def test_two_measurements_wait_for_each_other(monkeypatch, tmp_path):
    monkeypatch.setattr("raysp.pi.machine.LOCK", tmp_path.name)
    told = []
    with machine.alone():
        waiting = threading.Thread(target=lambda: machine.alone(told.append).__enter__(), daemon=True)
        waiting.start()
        waiting.join(2)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    assert "another measurement runs on this machine" in told[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"warm": 0}, "expected at least 1"),
        ({"protocol": "aby3"}, "expected one of cheetah, semi2k"),
        ({"limit_s": 0.0}, "expected more than 0"),
        ({"limit_s": float("inf")}, "at most 604800"),
        ({"host": ""}, "no host"),
        ({"ports": (80, 80)}, "expected two different ones"),
    ],
)
def test_bad_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MeasureOptions(**wrong)
