"""A user's own weights in place of the baseline's training."""

import pytest
import safetensors.torch
import torch

from raysp.models import build_model
from raysp.stages.given import digest, read_weights


def network(width=4):
    return build_model("resnet18", num_classes=5, image_size=8, width=width)


def weights(model):
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(".mask")}


@pytest.mark.parametrize(
    "wrapped", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": {"state_dict": s}}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_read_however_they_were_saved(wrapped, prefix, tmp_path):
    torch.manual_seed(0)
    model = network()
    state = {prefix + name: tensor for name, tensor in weights(model).items()}
    torch.save(wrapped(state), tmp_path / "w.pt")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    found = [read_weights(tmp_path / name, network()) for name in ("w.pt", "w.safetensors")]
    assert digest(found[0]) == digest(found[1])
    other = network()
    other.load_state_dict(found[0])  # strict
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(other.eval()(x).logits["final"], model.eval()(x).logits["final"])


def test_counters_may_be_missing_and_masks_are_whole(tmp_path):
    state = {name: tensor for name, tensor in weights(network()).items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt", network())
    assert all(found[name].all() for name in found if name.endswith(".mask"))
    assert found.keys() == network().state_dict().keys()


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "w.pt"

    def saved(change):
        state = weights(network())
        change(state)
        torch.save(state, path)
        return path

    with pytest.raises(ValueError, match=r"missing stem_bn\.bias \(2 in all\)"):
        read_weights(saved(lambda s: [s.pop("stem_bn.bias"), s.pop("stages.0.0.conv1.weight")]), network())
    with pytest.raises(ValueError, match=r"unexpected fc\.weight \(1 in all\)"):
        read_weights(saved(lambda s: s.update({"fc.weight": torch.zeros(1)})), network())
    with pytest.raises(ValueError, match=r"stem_conv\.weight is \[4, 3, 3, 3\], expected \[6, 3, 3, 3\] \(\d+ of another"):
        read_weights(saved(lambda s: None), network(width=6))
    with pytest.raises(ValueError, match=r"stem_conv\.weight isn't finite"):
        read_weights(saved(lambda s: s["stem_conv.weight"].fill_(float("nan"))), network())


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "neither safetensors nor a file of torch.save that holds weights alone"),
        ({"a": 1}, "holds no tensors by name"),
        (torch.zeros(3), "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_and_no_code_runs(content, message, tmp_path, capsys):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "w.pt", network())
    assert "unpickled" not in capsys.readouterr().out
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path / "empty", tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"--baseline|expected a file of weights"):
            read_weights(path, network())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: t.to(torch.int8), "int8"),
        (lambda t: t.to("meta"), "on meta"),
        (lambda t: t.double() + 1e300, "isn't finite in float32"),
    ],
)
def test_numbers_of_other_kinds_are_refused(change, message, tmp_path):
    torch.save(weights(network()) | {"stem_conv.weight": change(torch.rand(4, 3, 3, 3))}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=rf"stem_conv\.weight .*{message}"):
        read_weights(tmp_path / "w.pt", network())


def test_a_variance_below_0_is_refused(tmp_path):
    torch.save(weights(network()) | {"stem_bn.running_var": -torch.ones(4)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"stem_bn\.running_var isn't finite in float32, or a variance below 0"):
        read_weights(tmp_path / "w.pt", network())
