"""Another engine through the same session, measurement, calibration and command: nothing of them is SPU's."""

import importlib.metadata
import json
import os
import signal
import socket
import threading

import pytest
import torch
from calibrated import small

from analysis.columns import MEASUREMENT
from raysp.latency.graph import graph_of
from raysp.latency.known import Calibrations, read_calibrations
from raysp.latency.prediction import predict
from raysp.models import build_model
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.exits import FINAL
from raysp.models.files import save_model
from raysp.pi.__main__ import main
from raysp.pi.calibration import calibrate
from raysp.pi.measurement import MeasureOptions, measure
from raysp.pi.session import PartyFault, session


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr("raysp.pi.engine.CHOSEN", "toy_engine")
    monkeypatch.setattr("raysp.pi.machine.LOCK", tmp_path.name)  # its times mean nothing, so that it needn't wait


def model():
    torch.manual_seed(0)
    found = small()
    for layer in found.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.3)
    return found.eval()


def test_a_measurement_holds_what_one_of_spu_holds():
    found = measure(model(), FINAL, MeasureOptions(protocol="semi2k", warm=2))
    assert set(found) == set(MEASUREMENT) - {"weights", "predicted", "modelled"}
    assert found["max_error"] < 1e-3 and found["same_class"]
    assert found["relus"] == count_costs(model()).relus
    assert list(found["versions"]) == ["python", "raysp", "numpy", "torch"]
    assert found["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert found["bytes_runs"] == [found["bytes"]] * 2
    # Each of the client's shares is 8 bytes per value, and so is the server's one of the result.
    plain = fold_batchnorm(collapse(model(), FINAL))
    values = sum(weight.numel() for weight in plain.parameters()) + 8 * 8
    client, server = (found["parties"][role]["bytes"] for role in ("client", "server"))
    assert 8 * values <= client <= 8 * values + 20 * len(list(plain.parameters())) + 20
    assert server == 8 * 10 + len("[10]")
    rows = {row["operation"]: row for row in found["operations"]}
    assert rows["convolution"]["times"] == sum(isinstance(module, torch.nn.Conv2d) for module in plain.modules())
    assert sum(row["bytes"] for row in rows.values()) == found["bytes"]


def test_calibrations_predictions_and_the_command_go_with_it(tmp_path, capsys):
    save_model(model(), tmp_path / "model")
    known = calibrate([fold_batchnorm(collapse(model()))], protocol="semi2k", described={}, runs=2)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(known.to_json()))
    assert read_calibrations([path]).first == known
    assert known.engine == "numpy"
    with pytest.raises(SystemExit) as stopped:
        main(["measure", str(tmp_path / "model"), "--protocol", "semi2k", "--warm", "1", "--calibration", str(path)])
    assert stopped.value.code == 0, capsys.readouterr()
    found = json.loads((tmp_path / "model" / "pi-final-semi2k.json").read_text())
    assert set(found) == set(MEASUREMENT)
    assert found["predicted"] == predict(model(), FINAL, Calibrations({str(path): known})).summary()


def test_a_protocol_that_it_does_not_speak_starts_nothing(tmp_path, capsys):
    save_model(model(), tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        main(["measure", str(tmp_path / "model"), "--protocol", "cheetah"])
    assert stopped.value.code == 2
    assert "protocol 'cheetah', which the engine doesn't speak; expected one of semi2k" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_operation_that_it_can_not_run_is_named():
    with pytest.raises(ValueError, match=r"\(AvgPool2d\) can't be run by the toy engine"):
        measure(build_model("vgg16", num_classes=10, image_size=32, width=4).eval(), FINAL, MeasureOptions(protocol="semi2k"))


def test_its_faults_are_told_as_those_of_spu():
    with pytest.raises(PartyFault, match=r"party 1 \(process \d+\) was ended by signal 9 in mid-run"):  # noqa: PT012, SIM117
        with session("semi2k", limit_s=60) as parties:
            parties.load(parties.engine.compile(graph_of(fold_batchnorm(collapse(model()))), torch.zeros(1, 8, 8)))
            threading.Timer(0.3, os.kill, (parties.parties[1].pid, signal.SIGKILL)).start()
            while True:
                parties.run()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(PartyFault, match=f"party 0 can't listen on 127.0.0.1:{port}: Address already in use"),
            session("semi2k", ports=(port, port - 1), limit_s=60),
        ):
            pass


def test_only_a_batch_norm_that_has_run_is_blamed_for_a_wrong_result(monkeypatch):
    monkeypatch.setattr("raysp.pi.measurement.LARGEST_ERROR", -1.0)
    monkeypatch.setattr("raysp.pi.measurement.LARGEST_ERROR_RELATIVE", -1.0)
    given = model()
    norms = [module for module in given.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    norms[-1].running_var[0] = 1e-10
    given.add_exit(1, "pool")
    for exit_name, blamed in (("ac1", False), (FINAL, True)):
        with pytest.raises(PartyFault, match="the result is off by") as fault:
            measure(given, exit_name, MeasureOptions(protocol="semi2k", warm=1))
        assert ("multiplies a channel by" in str(fault.value)) is blamed
