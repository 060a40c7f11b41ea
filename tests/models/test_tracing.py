"""Networks that others wrote, against slow and obvious versions of themselves."""

import importlib.util
import json

import pytest
import torch
from convnets import CLASSES, OWN, OWN_SIZE, TORCHVISION, TORCHVISION_SIZE
from torch import nn
from torch.nn import functional as F
from traced import checks, randomise_norms

from raysp.deploy.export import export
from raysp.models import network_of
from raysp.models.description import build, describe
from raysp.models.files import load_model, save_model
from raysp.models.specs import text_of


@pytest.fixture(scope="module")
def module(request):
    torch.manual_seed(0)
    return randomise_norms(request.param().double())


@checks()
@pytest.mark.parametrize("module", OWN.values(), ids=OWN, indirect=True)
def test_small_networks(module, check):
    check(module, OWN_SIZE, CLASSES)


@checks()
@pytest.mark.parametrize("module", TORCHVISION.values(), ids=TORCHVISION, indirect=True)
def test_torchvisions_networks(module, check):
    check(module, TORCHVISION_SIZE, CLASSES)


@pytest.mark.parametrize(
    ("name", "pairs", "stages", "layers"),
    [
        ("resnet18", 8, 4, 17), ("resnet34", 16, 4, 33), ("resnet50", 16, 4, 49), ("wide_resnet50_2", 16, 4, 49),
        ("vgg16_bn", 4, 5, 15),
        ("densenet121", 58, 4, 121), ("regnet_x_400mf", 22, 4, 67), ("mobilenet_v2", 17, 5, 35), ("googlenet", 19, 4, 57),
    ],
)  # fmt: skip
def test_what_is_found_in_torchvisions_networks(name, pairs, stages, layers):
    network = network_of(TORCHVISION[name](), name=name, num_classes=CLASSES, image_size=64, relu6=True)
    assert (len(network.chains), network.num_stages, len(network.relu_layers())) == (pairs, stages, layers)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("FunctionalReLUs", []), ("ReusedReLU", ["conv2", "conv4"]), ("OptionA", ["conv2"]), ("SharedConvolution", ["pair"]),
        ("Concatenations", ["left", "right"]), ("SeveralInputs", ["pair"]), ("Unpadded", ["layers"]), ("InPlace", []),
        ("TakenNames", ["relu"]),
    ],
)  # fmt: skip
def test_pairs_of_small_networks(name, pairs):
    network = network_of(OWN[name](), name=name, num_classes=CLASSES, image_size=OWN_SIZE)
    assert [name for name, _ in network.gated_blocks()] == pairs


def small(kernel=3, stride=1, skip=False, *, extra=False, order="ab"):
    """A network whose parts can be changed."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            made = {"a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 4, kernel, stride=stride, padding=kernel // 2)}
            for key in order:
                self.add_module(key, made[key])
            self.c, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)
            if extra:
                self.unused = nn.Conv2d(1, 1, 1)

        def forward(self, x, unused=None):
            x = F.relu(self.a(x))
            x = F.relu(self.b(x))
            y = self.c(x) + x if skip else self.c(x)
            return self.fc(F.relu(y).mean((2, 3)))

    return Net()


def identity_of(module, size=8, name="one"):
    return text_of(network_of(module, name=name, num_classes=CLASSES, image_size=size))


def test_the_text_tells_edited_networks_apart_and_nothing_else():
    def again():
        class Other(type(small())):
            pass

        return Other()

    same = [
        identity_of(small()),
        identity_of(small(), name="two"),
        identity_of(again()),
        identity_of(small(extra=True)),
        identity_of(small().train()),
    ]
    assert len(set(same)) == 1
    edited = [small(kernel=5), small(stride=2), small(skip=True), small(skip=True, kernel=5)]
    others = [identity_of(net) for net in edited] + [identity_of(small(), size=16)]
    assert len({same[0], *others}) == 1 + len(others)
    masked = network_of(small(), name="one", num_classes=CLASSES, image_size=8)
    masked.relu_layers()[0].relu.set_mask(torch.zeros(4, 8, 8, dtype=torch.bool))
    assert text_of(masked) == same[0]
    assert text_of(build(json.loads(json.dumps(describe(masked))))) == same[0]


HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
FORMATS = [
    pytest.param(
        "onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="ONNX needs the extra export: pip install -e '.[export]'")
    ),
    "torch",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's exporter
@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", ["ReusedReLU", "SharedConvolution", "Concatenations", "Unpadded"])
def test_small_networks_are_exported(name, format_name, tmp_path):
    torch.manual_seed(0)
    network = network_of(randomise_norms(OWN[name]()), name=name, num_classes=CLASSES, image_size=OWN_SIZE)
    for layer in network.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.5)
    network.gated_blocks()[0][1].add_shallow_branch(3)
    network.eval()
    save_model(network, tmp_path / "model")
    assert export(tmp_path / "model", tmp_path / "out", format=format_name)["check"]["relative_error"] <= 1e-4
    loaded, x = load_model(tmp_path / "model"), torch.randn(2, 3, OWN_SIZE, OWN_SIZE)
    assert torch.equal(loaded(x).logits["final"], network(x).logits["final"])


def test_a_forward_keeps_the_defaults_of_what_else_it_takes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def forward(self, x, *, double=False, features=None):
            logits = self.inner(x)
            if features is not None or double:
                return logits, x
            return logits

    module = Net().eval()
    network, x = network_of(module, name="one", num_classes=CLASSES, image_size=8), torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x).logits["final"], module(x))


def test_a_module_s_mode_is_its_networks():
    assert network_of(small(), name="one", num_classes=CLASSES, image_size=8).training
    assert not network_of(small().eval(), name="one", num_classes=CLASSES, image_size=8).training
