"""Which network a user means."""

import json
import subprocess
import sys

import own
import pytest
import torch

from raysp.models.specs import drawn, open_network, text_of

SIZES = {"num_classes": 10, "in_channels": 1, "image_size": 8}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the module `ownnet`, which is forgotten afterwards."""
    with own.working_in(tmp_path, "ownnet", monkeypatch) as directory:
        yield directory


def test_a_function_gets_what_it_takes_and_its_network_is_known_by_what_it_does(here):
    one, same, other = (open_network(f"ownnet:{name}", **SIZES) for name in ("build", "again", "wider"))
    assert text_of(one) == text_of(same) != text_of(other)
    assert one.name == "ownnet:build"
    assert [layer.name for layer in one.relu_layers()] == ["relu", "relu_1", "relu_2", "relu_3", "relu_4"]


def test_a_function_that_passes_on_whatever_it_gets_gets_what_is_taken_there(here):
    assert text_of(open_network("ownnet:passes_on", **SIZES)) == text_of(open_network("ownnet:build", **SIZES))


def test_what_a_constructor_draws_counts_for_nothing(here):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    text = text_of(open_network("ownnet:build", **SIZES))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    first = drawn(text, "a").state_dict()
    torch.manual_seed(1)
    again = drawn(text, "b").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["conv1.weight"].std() == pytest.approx((2 / (4 * 9)) ** 0.5, rel=0.25)  # as for ReLUs


def test_a_network_is_built_from_its_text_where_its_source_is_not(here, tmp_path):
    (tmp_path / "text.json").write_text(text_of(open_network("ownnet:build", **SIZES)))
    code = (
        "import sys, torch; from raysp.models.specs import drawn; "
        f"network = drawn(open({str(tmp_path / 'text.json')!r}).read(), 'own'); "
        "print(network(torch.zeros(2, 1, 8, 8)).logits['final'].shape, 'ownnet' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=120, check=True)
    assert done.stdout.split("\n")[0] == "torch.Size([2, 10]) False"
    assert json.loads((tmp_path / "text.json").read_text())["origin"]["name"] == ""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:build", "there is no module nowhere in"),
        ("nowhere.deep:build", "there is no module nowhere.deep in"),
        ("ownnet:asserts", "AssertionError: assert num_classes == 100"),
        ("ownnet:nothing", r"ownnet \(.*ownnet.py\) has no function nothing"),
        ("ownnet:number", r"ownnet \(.*ownnet.py\) has no function number"),
        ("ownnet:network", "network is a network; expected a function that builds one"),
        ("ownnet:ends", "it fails when it is called: SystemExit: 0"),
        ("ending:build", r"ending can't be imported: SystemExit"),
        ("builtins:dict", "dict doesn't say what it takes|fails when it is called|gives a dict"),
        (".ownnet:build", "expected resnet18"),
        ("ownnet:a:b", "expected resnet18"),
        ("ownnet:fails", r"it fails when it is called: RuntimeError: no such luck \(.*ownnet.py:\d+\)"),
        ("ownnet:silu", "SiLU isn't known"),
        ("broken:build", r"broken can't be imported: ZeroDivisionError: division by zero \(.*broken.py:1\)"),
        ("lacking:build", "lacking needs no_such_package, which isn't installed"),
        ("text:build", "gives a str; expected a torch.nn.Module"),
        (":build", "expected resnet18"),
        ("ownnet:", "expected resnet18"),
        ("torchvision:resnet19", "torchvision has no such model; it has alexnet"),
        ("torchvision:resnet18", "it reads 3 channels, the images have 1"),
    ],
)
def test_what_cannot_be_used_is_named(spec, message, here):
    (here / "broken.py").write_text("1 / 0\n")
    (here / "ending.py").write_text("import sys\nsys.exit(0)\n")
    (here / "lacking.py").write_text("import no_such_package\n")
    (here / "text.py").write_text("def build():\n    return 'network'\n")
    with pytest.raises(ValueError, match=message):
        open_network(spec, **SIZES)


def test_torchvisions_networks_are_taken_without_their_own_exits():
    network = open_network("torchvision:googlenet", num_classes=5, in_channels=3, image_size=64)
    assert network.exit_names == ("final",)
    assert len(network.relu_layers()) == 57


def test_weights_that_nothing_is_computed_with_are_known(here):
    network = open_network("ownnet:Spare", **SIZES)
    assert network.left_out == {"spare.weight", "spare.bias"}
    assert open_network("ownnet:build", **SIZES).left_out == frozenset()
