import json

import pytest
import safetensors.torch
import torch
from networks import NAMES, gated

from raysp.models import build_model
from raysp.models.collapse import collapse, drop_main_branches, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.description import describe
from raysp.models.files import load_model, save_model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("state", "head"), [*((s, "bottleneck") for s in ("gated", "dropped", "collapsed", "cut", "folded")), ("folded", "grid")]
)
def test_a_saved_network_is_loaded_as_the_same_network(name, state, head, tmp_path):
    model = gated(name, ac_after=2, kernel=5, head=head)
    model.set_gates(0.3)
    x = torch.randn(3, 3, 16, 16)
    change = {
        "gated": lambda m: m,
        "dropped": drop_main_branches,
        "collapsed": collapse,
        "cut": lambda m: collapse(m, "ac2"),
        "folded": lambda m: fold_batchnorm(collapse(m, "ac2")),
    }[state]
    saved = change(model)
    saved.input_mean, saved.input_std = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]
    save_model(saved, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert (loaded.input_mean, loaded.input_std) == (saved.input_mean, saved.input_std)
    want, got = saved(x).logits, loaded(x).logits
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert count_costs(loaded, next(iter(got))) == count_costs(saved, next(iter(got)))
    with pytest.raises(FileExistsError, match="another directory"):
        save_model(saved, tmp_path)


def test_a_model_is_loaded_for_one_of_its_exits(tmp_path):
    save_model(gated("resnet18", ac_after=3), tmp_path)
    loaded = load_model(tmp_path, exit="ac3")
    assert loaded.exit_names == ("ac3",)
    assert sum(layer.relu.kept for layer in loaded.relu_layers()) == count_costs(loaded, "ac3").relus
    with pytest.raises(ValueError, match="no exit 'ac1'; the model has ac3, final"):
        load_model(tmp_path, exit="ac1")


def _named(**changes):
    """A description as it was before networks were graphs, of a resnet18."""
    whole = {
        "model": "resnet18", "num_classes": 3, "image_size": 32, "in_channels": 3, "width": 2, "shallow_kernels": [0] * 8,
        "main_branches": True, "gates": [0.0] * 8, "ac_heads": [""] * 3, "num_stages": 4, "final": True, "folded": False,
        "input_mean": [0.0] * 3, "input_std": [1.0] * 3,
    }  # fmt: skip
    return {"network": json.dumps(whole | changes)}


def _other(**changes):
    return {"network": json.dumps(describe(build_model("resnet18", num_classes=3, width=2)) | changes)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no weights\.safetensors in"),
        (b"not safetensors", "not readable as safetensors"),
        (safetensors.torch.save({"a": torch.zeros(1)}), "says nothing about its network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, {"network": "{"}), "don't make a network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, {"network": "[]"}), "don't make a network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, {"network": "{}"}), "don't make a network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other()), "don't make a network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(format=3)), "format 3; expected 2"),
        (
            safetensors.torch.save({"a": torch.zeros(1)}, _other(nodes=[["a", ["b"], "add", []]])),
            "reads or calls what isn't there",
        ),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(nodes=[["a", ["image"], "eval", []]])), "isn't there"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(modules={"a": ["Module", {}]})), "isn't there|expected one of"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(exits={})), "expected nodes"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(ac_heads={"ac1": "x"})), "expected pool"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(input_mean=[0.0])), "1 means for 3 channels"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _other(gates={"a": 0.5})), "don't make a network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named()), "don't make a network"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(model="resnet19")), "expected one of resnet18"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(width=10**9)), "width 1000000000"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(shallow_kernels=[3] * 9, gates=[0.0] * 9)), "9 blocks"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(shallow_kernels=[99])), "expected 0, 3 or 5"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(ac_heads=["pool"])), "don't fit"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(gates=[2.0] * 8)), "from 0 to 1"),
        (safetensors.torch.save({"a": torch.zeros(1)}, _named(final=False)), "exactly one auxiliary head"),
    ],
)
def test_what_is_not_a_saved_network_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)
