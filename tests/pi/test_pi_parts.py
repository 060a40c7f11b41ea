"""What private inference needs no engine for: the walk, the statistics' log, the files, the sum of the cost model."""

import json
import threading

import pytest
from PIL import Image

from raysp.models import build_model
from raysp.models.files import save_model
from raysp.pi import MeasureOptions, machine, read_measurements, require_engine
from raysp.pi.__main__ import main
from raysp.pi.calibration import family
from raysp.pi.files import FORMAT
from raysp.pi.secretflow.log import parse
from raysp.pi.stored import read_image

LOG = """
 [info] - pphlo.convolution, executed 20 times, duration 1.0230e+00s, send bytes 4042072 recv bytes 4083096, send actions 50, recv actions 43
 [info] - pphlo.less, executed 17 times, duration 6.6182605e-02s, send bytes 150688 recv bytes 28832, send actions 306, recv actions 306
 [info] HAL profiling: total time 1.1615620240000002
 [info] - f_less, executed 17 times, duration 0.06612612s, send bytes 150688 recv bytes 28832, send actions 306, recv actions 306
 [info] Link details: total send bytes 4338020, recv bytes 4314666, send actions 392, recv actions 385
"""  # noqa: E501


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


@pytest.mark.parametrize("wrong", [{"kernels": (4,)}, {"heads": ("big",)}])
def test_a_family_of_what_there_is_not_is_refused(wrong):
    with pytest.raises(ValueError, match="expected kernels of 3 or 5, heads of pool, bottleneck, grid"):
        family(
            "resnet18", num_classes=7, image_size=16, in_channels=3, width=4, **({"kernels": (3,), "heads": ("pool",)} | wrong)
        )


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


def test_predict_says_what_a_model_will_take(tmp_path, capsys):
    save_model(build_model("resnet18", num_classes=10, image_size=8, in_channels=1, width=16), tmp_path / "model")

    def said(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", str(tmp_path / "model"), *arguments])
        captured = capsys.readouterr()
        return stopped.value.code, " ".join((captured.out + captured.err).split())

    code, text = said("--link", "100mbit,20ms")
    assert code == 0
    assert all(f"{link}: at most" in text for link in ("lan", "wan", "100mbit,20ms"))
    assert "the machine of resnet18-width16-8px" in text and "fitted" not in text
    assert said("--link", "fast")[0] == said("--calibration", str(tmp_path / "none.json"))[0] == 2
    save_model(build_model("resnet18", num_classes=10, image_size=8, in_channels=1, width=4), tmp_path / "narrow" / "model")
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "narrow" / "model")])
    assert "fitted, because no calibration has them: stem_conv, " in " ".join(capsys.readouterr().out.split())
