"""Models taken away: what is exported computes what the network computes, and its card says what is known."""

import importlib.util
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from records import record_of, row
from toy import toy

from raysp.data.pictures import PREPARATION
from raysp.deploy.export import export
from raysp.deploy.formats import OPSETS
from raysp.latency.known import packaged
from raysp.latency.prediction import predict
from raysp.models.collapse import collapse
from raysp.models.costs import count_costs
from raysp.models.files import checked_weights, metadata_of, save_model
from raysp.store.records import Store
from raysp.store.tensor_files import DamagedFile

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
FORMATS = [
    pytest.param(
        "onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="ONNX needs the extra export: pip install -e '.[export]'")
    ),
    "torch",
]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's exporter


def about(directory):
    """What a model's file says of it."""
    if (directory / "model.onnx").exists():
        import onnx

        said = {entry.key: entry.value for entry in onnx.load(directory / "model.onnx").metadata_props}
        return {name: json.loads(said[name]) for name in ("class_names", "input")}
    extra = {"model.json": ""}
    torch.export.load(directory / "model.pt2", extra_files=extra)
    return {name: json.loads(extra["model.json"])[name] for name in ("class_names", "input")}


def logits(directory, images):
    if (directory / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])
    return torch.export.load(directory / "model.pt2").module()(images)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", networks.NAMES)
@pytest.mark.parametrize(("exit_name", "head"), [("final", "bottleneck"), ("ac2", "bottleneck"), ("ac2", "grid")])
def test_what_is_exported_computes_what_the_network_computes(format_name, name, exit_name, head, tmp_path):
    model = networks.gated(name, ac_after=2, head=head, in_channels=3)
    networks.outer_relu(model, 1).set_mask(torch.zeros(networks.outer_relu(model, 1).shape, dtype=torch.bool))
    save_model(model, tmp_path / "model")
    card = export(tmp_path / "model", tmp_path / "out", format=format_name, exit=exit_name)
    images = torch.randn(3, 3, 16, 16)
    wanted = collapse(model, exit_name)(images).logits[exit_name].detach()
    found = logits(tmp_path / "out", images)
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
    assert card["check"]["relative_error"] <= 1e-4
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card
    assert card["costs_per_image"]["counted"] == count_costs(model, exit_name).totals()
    assert card["accuracy_percent"]["test"] == "not known"
    assert card["origin"]["exported_with"]["torch"] == metadata.version("torch")
    needs = card["file"]["needs"]
    if format_name == "onnx":
        assert needs["opset"] == 20 and needs["ir_version"] >= 10
        assert needs["onnxruntime"] == "1.18 or newer" or needs["ir_version"] > 10
    else:
        assert needs["torch"].startswith(".".join(torch.__version__.split(".")[:2]))
        assert re.fullmatch(r"\d+\.\d+", needs["schema"])
    told = (tmp_path / "out" / "card.md").read_text()
    assert all(f"- {name.replace('_', ' ')}: {value}\n" in told for name, value in needs.items())
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_a_finished_stage_s_card_says_all_that_the_records_say(tmp_path):
    model = networks.gated("resnet18", ac_after=2, in_channels=3)
    mask, stage = toy(name="mask", number=1), toy(name="finetune", number=2)
    rows = [row(exit=name, selection="test", test_accuracy=71.25) for name in ("final", "ac2")]
    with Store(root=tmp_path / "run").lock() as store:
        store.commit(mask, record_of(mask, config={"budget": 4321}), {})
        files = {"weights.safetensors": store.save_weights(stage, model.state_dict(), metadata_of(model))}
        parents = {"mask": {"stage": "mask", "key": mask.key}}
        store.commit(stage, record_of(stage, rows, parents=parents, labels={"preset": "quick"}), files)
    measured = {
        "format": 1,
        "exit": "ac2",
        "protocol": "semi2k",
        "weights": files["weights.safetensors"],
        "time_s": 1.5,
        "bytes": 7,
    }
    (store.directory(stage) / "pi-ac2-semi2k.json").write_text(json.dumps(measured))
    card = export(store.directory(stage), tmp_path / "out", format="torch", exit="ac2", data_licence="mine")
    assert card["data"] == {"name": "digits", "licence": "mine"}
    assert card["accuracy_percent"] == {
        "validation": 80.0,
        "test": 71.25,
        "worst_class": "not known",
        "selected_on": "test",
    }
    assert card["recipe"]["preset"] == "quick"
    assert card["recipe"]["stages"]["mask"] == {"budget": 4321}
    assert card["origin"]["key"] == stage.key
    assert card["costs_per_image"]["measured"] == [
        {"protocol": "semi2k: online phase, trusted dealer", "time_s": 1.5, "bytes": 7.0}
    ]
    (store.directory(stage) / "weights.safetensors").unlink()
    save_model(networks.gated("resnet18", ac_after=2, in_channels=3), store.directory(stage))
    with pytest.raises(DamagedFile, match="not the weights that the record"):
        export(store.directory(stage), tmp_path / "other", format="torch", exit="ac2")
    assert not (tmp_path / "other").exists()
    text = (tmp_path / "out" / "card.md").read_text()
    assert "- test: 71.25" in text
    assert "These flatter: the test part chose the model." in text
    assert "4321" in text


def test_a_card_says_how_a_picture_becomes_the_input(tmp_path):
    """Followed to the letter with Pillow and numpy alone, it gives what the network was trained on."""
    from raysp.data.pictures import to_array

    save_model(networks.gated("resnet18", in_channels=3), tmp_path / "model")
    card = export(tmp_path / "model", tmp_path / "out", format="torch")
    size = card["model"]["input"]["shape"][2]
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "transparent.png")
    for name in ("turned.jpg", "transparent.png"):
        picture = ImageOps.exif_transpose(Image.open(tmp_path / name)).convert("RGBA")
        grey = Image.new("RGBA", picture.size, (128, 128, 128, 255))
        squashed = Image.alpha_composite(grey, picture).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        with Image.open(tmp_path / name) as again:
            assert np.array_equal(np.asarray(squashed).transpose(2, 0, 1), to_array(again, size))
    text = (tmp_path / "out" / "card.md").read_text()
    for said in (
        "- colour: RGB, in this order",
        "- resized: to height x width by squashing, without cropping, by Pillow's bilinear filter, which is antialiased",
        "- transparent areas: on grey, 128 of 255",
        "- axes: images, channels, height, width",
        "EXIF orientation",
    ):
        assert said in text
    steps = list(card["model"]["input"]["preparation"])
    assert steps == list(PREPARATION) and steps[:5] == ["sixteen_bits", "transparent_areas", "colour", "turned", "resized"]


@pytest.mark.parametrize(
    ("of_baseline", "said"),
    [
        (
            {"images": [50, 0, 50], "percent": {"final": [96.0, None, 90.0]}},
            "dog: 70.00 (-20.00 points from the all-ReLU network's 90.00)",
        ),
        (None, "dog: 70.00 (what it lost is not known)"),
    ],
)
def test_a_card_says_what_the_worst_class_has_lost(of_baseline, said, tmp_path):
    model = networks.gated("resnet18", in_channels=3)
    baseline, stage = toy(name="baseline", number=1), toy(name="finetune", number=2)
    before = {"classes": ["cat", "none", "dog"]} | ({"test_by_class": of_baseline} if of_baseline else {})
    metrics = {"test_by_class": {"images": [50, 0, 50], "percent": {"final": [94.0, None, 70.0]}}}
    with Store(root=tmp_path / "run").lock() as store:
        store.commit(baseline, record_of(baseline, metrics=before), {})
        files = {"weights.safetensors": store.save_weights(stage, model.state_dict(), metadata_of(model))}
        parents = {"baseline": {"stage": "baseline", "key": baseline.key}}
        store.commit(stage, record_of(stage, [row()], parents=parents, metrics=metrics), files)
    export(store.directory(stage), tmp_path / "out", format="torch")
    assert f"- worst class: {said}\n" in (tmp_path / "out" / "card.md").read_text()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_card_names_the_classes_and_says_what_private_inference_will_take(format_name, tmp_path):
    model = networks.gated("resnet18", in_channels=3)
    baseline, stage = toy(name="baseline", number=1), toy(name="finetune", number=2)
    names = [f"class {number}" for number in range(model.num_classes)]
    with Store(root=tmp_path / "run").lock() as store:
        store.commit(baseline, record_of(baseline, metrics={"classes": names}), {})
        files = {"weights.safetensors": store.save_weights(stage, model.state_dict(), metadata_of(model))}
        parents = {"baseline": {"stage": "baseline", "key": baseline.key}}
        store.commit(stage, record_of(stage, [row()], parents=parents), files)
    card = export(store.directory(stage), tmp_path / "out", format=format_name)
    assert card["model"]["class_names"] == names
    assert about(tmp_path / "out") == {"class_names": names, "input": card["model"]["input"]}
    told = predict(model, "final", packaged())
    assert card["costs_per_image"]["predicted"] == {
        "warm_s": told.time_s,
        "bytes": round(told.bytes),
        "round_trips": round(told.round_trips),
        "lan_s": told.modelled_s["lan"],
        "wan_s": told.modelled_s["wan"],
        "calibration": told.calibration,
        "fitted_layers": list(told.fitted),
    }
    text = (tmp_path / "out" / "card.md").read_text()
    assert "- in this order: class 0, class 1, " in text
    assert f"- layers that were not measured, but fitted: {len(told.fitted)}\n" in text


@pytest.mark.parametrize("there", ["directory", "file", "link"])
def test_nothing_is_overwritten(there, tmp_path):
    save_model(networks.gated("resnet18", in_channels=3), tmp_path / "model")
    out = tmp_path / "out"
    {"directory": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[there]()
    with pytest.raises((FileExistsError, ValueError), match=r"so that nothing is overwritten|a link that leads to nowhere"):
        export(tmp_path / "model", out, format="torch")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("out", ["/proc/taken", "/proc/a/b", "file/taken"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(out, tmp_path, monkeypatch, capsys):
    from raysp.deploy.cli import main

    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no directory in which even root can't write")
    save_model(networks.gated("resnet18", in_channels=3), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr("raysp.deploy.export._write_checked", lambda *arguments: pytest.fail("it was exported"))
    with pytest.raises(SystemExit) as stopped:
        main(["model", "--format", "torch", "--out", out])
    assert stopped.value.code == 2
    target = Path(out).absolute()
    said = f"error: {target} can't be written: no file can be made in {target.parent}; give another directory\n"
    assert capsys.readouterr().err == said


def test_onnx_without_its_extra_is_refused_with_what_to_install(tmp_path, monkeypatch):
    save_model(networks.gated("resnet18", in_channels=3), tmp_path / "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ONNX needs onnx, onnxscript, onnxruntime: pip install -e '\.\[export\]'"):
        export(tmp_path / "model", tmp_path / "out", format="onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(not HAS_ONNX, reason="ONNX needs the extra export: pip install -e '.[export]'")
@pytest.mark.parametrize("opset", OPSETS)
def test_the_version_of_onnx_s_operations_is_what_was_asked_for(opset, tmp_path):
    import onnx

    model = networks.gated("resnet18", ac_after=2, in_channels=3)
    save_model(model, tmp_path / "model")
    card = export(tmp_path / "model", tmp_path / "out", format="onnx", opset=opset)
    written = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    assert [each.version for each in written.opset_import if each.domain in ("", "ai.onnx")] == [opset]
    assert card["file"]["needs"]["opset"] == opset
    assert f"- opset: {opset}\n" in (tmp_path / "out" / "card.md").read_text()
    images = torch.randn(3, 3, 16, 16)
    wanted = collapse(model)(images).logits["final"].detach()
    assert float((logits(tmp_path / "out", images) - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize(("given", "opset"), [("onnx", 17), ("onnx", 24), ("onnx", 0), ("torch", 20)])
def test_a_version_that_can_not_be_written_is_refused_before_the_work(given, opset, tmp_path):
    save_model(networks.gated("resnet18", in_channels=3), tmp_path / "model")
    with pytest.raises(ValueError, match=rf"--opset {opset} with --format {given}; expected a version .* from 18 to 23"):
        export(tmp_path / "model", tmp_path / "out", format=given, opset=opset)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_channel_without_variance_is_exported(format_name, tmp_path):
    model = networks.with_dead_channel(networks.gated("resnet18", in_channels=3))
    save_model(model, tmp_path / "model")
    card = export(tmp_path / "model", tmp_path / "out", format=format_name)
    assert card["check"]["relative_error"] <= 1e-4
    images = torch.randn(3, 3, 16, 16)
    wanted = collapse(model)(images).logits["final"].detach()
    assert float((logits(tmp_path / "out", images) - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_a_batch_norm_that_multiplies_what_is_rounded_is_named(tmp_path, monkeypatch):
    save_model(networks.with_dead_channel(networks.gated("resnet18", in_channels=3)), tmp_path / "model")
    monkeypatch.setattr("raysp.deploy.export.TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match=r"off by .*: its batch norm \S+ multiplies a channel by \S+ \(running_var 1e-10\)"):
        export(tmp_path / "model", tmp_path / "out", format="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    save_model(networks.gated("resnet18", in_channels=3), tmp_path / "model")
    monkeypatch.setattr("raysp.deploy.export._FixedReLU.forward", lambda self, x: torch.relu(x))
    with pytest.raises(RuntimeError, match="the exported model is off by"):
        export(tmp_path / "model", tmp_path / "out", format="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_command(tmp_path):
    save_model(networks.gated("resnet18", ac_after=2, in_channels=3), tmp_path / "model")

    def run(*arguments):
        command = [sys.executable, "-m", "raysp.export", str(tmp_path / "model"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    done = run("--format", "torch", "--exit", "ac2", "--data-licence", "CC BY 4.0 <b>")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "model-ac2-torch"
    assert "- licence: CC BY 4.0 &lt;b>" in (out / "card.md").read_text()
    again = run("--format", "torch", "--exit", "ac2")
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: ")
    assert run("--format", "torch", "--exit", "ac9").returncode == 2
    url = run("--format", "torch", "--out", "memory://a/b")
    assert url.returncode == 2
    assert "can't be written" in url.stderr


def test_a_model_of_one_exit_is_called_after_it_and_keeps_what_was_measured(tmp_path):
    model = collapse(networks.gated("resnet18", ac_after=2, in_channels=3), "ac2")
    weights = checked_weights(save_model(model, tmp_path / "model").parent)
    measured = {"format": 1, "exit": "ac2", "protocol": "cheetah", "weights": weights, "time_s": 1.5, "bytes": 7}
    (tmp_path / "model" / "pi-ac2-cheetah.json").write_text(json.dumps(measured))
    command = [sys.executable, "-m", "raysp.export", str(tmp_path / "model"), "--format", "torch"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True)
    card = json.loads((tmp_path / "model-ac2-torch" / "card.json").read_text())
    assert card["costs_per_image"]["measured"][0]["time_s"] == 1.5, done.stdout
