"""What can't be traced: one message, which names the operation, its place in the user's source, and what to do."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raysp.models import network_of


class Base(nn.Module):
    """Two convolutions with a layer between; others write what is wrong with them."""

    def __init__(self, layer=None, classes=5):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, classes)
        self.layer = layer

    def body(self, x):
        return self.head(self.conv2(F.relu(self.conv1(x))))

    def head(self, x):
        return self.fc(F.relu(x).mean((2, 3)))


class Layer(Base):
    def forward(self, x):
        return self.head(self.conv2(self.layer(self.conv1(x))))  # here


class DecidesByValues(Base):
    def forward(self, x):
        y = self.body(x)
        if y.sum() > 0:  # here
            return y
        return -y


class DecidesBySizes(Base):
    def forward(self, x):
        x = self.conv1(x)
        if x.shape[2] > 4:  # here
            x = F.relu(x)
        return self.head(self.conv2(x))


class LoopsOverMaps(Base):
    def forward(self, x):
        x = self.conv1(x)
        return self.head(self.conv2(sum(part for part in x)))  # here


class Product(Base):
    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = x * x  # here
        return self.head(self.conv2(x))


class AnotherFunction(Base):
    def forward(self, x):
        x = F.silu(self.conv1(x))  # here
        return self.head(self.conv2(x))


class FunctionalReLU6(Base):
    def forward(self, x):
        x = F.relu6(self.conv1(x))  # here
        return self.head(self.conv2(x))


class Hardtanh(Base):
    def forward(self, x):
        x = F.hardtanh(self.conv1(x))  # here
        return self.head(self.conv2(x))


class OwnTensor(Base):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        x = self.conv1(x) + self.scale  # here
        return self.head(self.conv2(x))


class SecondInput(Base):
    def forward(self, x, y):  # here
        return self.body(x)


class NoInput(Base):
    def forward(self):  # here
        return self.fc.bias


class Pair(Base):
    def forward(self, x):  # here
        y = self.body(x)
        return y, x


class Dictionary(Base):
    def forward(self, x):  # here
        return {"logits": self.body(x)}


class GivesMap(Base):
    def forward(self, x):  # here
        return self.conv2(F.relu(self.conv1(x)))


class Logits(Base):
    def forward(self, x):  # here
        return self.body(x)


class NoReLU(Base):
    def forward(self, x):  # here
        return self.fc(self.conv2(self.conv1(x)).mean((2, 3)))


class OneConvolution(Base):
    def forward(self, x):  # here
        return self.fc(F.relu(self.conv1(x)).mean((2, 3)))


class OfImages(Base):
    def forward(self, x):
        x = F.relu(x)  # here
        return self.body(x)


class Indices(Base):
    def forward(self, x):
        x, _ = F.max_pool2d(F.relu(self.conv1(x)), 2, return_indices=True)  # here
        return self.head(self.conv2(x))


class AlwaysDropsOut(Base):
    def forward(self, x):
        x = F.dropout(self.conv1(x), 0.5)  # here
        return self.head(self.conv2(x))


class OtherDivisor(Base):
    def forward(self, x):
        x = F.avg_pool2d(self.conv1(x), 2, divisor_override=3)  # here
        return self.head(self.conv2(x))


class OtherShapes(Base):
    def forward(self, x):
        y = self.conv1(x)
        y = y + self.conv2(y)  # here
        return self.head(y)


class OtherHead(Base):
    def forward(self, x):
        x = F.relu(self.conv2(self.conv1(x)))
        return self.fc(x.flatten(1))  # here


class Overwrites(Base):
    def forward(self, x):
        x = self.conv1(x)
        part = x[:, :2]
        x.relu_()  # here
        return self.head(self.conv2(torch.cat([part, part], 1)))


class Assigns(Base):
    def forward(self, x):
        x = self.conv1(x)
        x[:, :2] = 0.0  # here
        return self.head(self.conv2(x))


class Chunks(Base):
    def forward(self, x):
        a, b = self.conv1(x).chunk(2, 1)  # here
        return self.head(self.conv2(torch.cat([b, a], 1)))


CASES = [
    (DecidesByValues, {}, ["can't be traced", "control flow", "decides nothing by their values"]),
    (DecidesBySizes, {}, ["can't be traced", "control flow", "or sizes"]),
    (LoopsOverMaps, {}, ["can't be traced", "iterated"]),
    (Product, {}, ["mul isn't known", "raysp knows convolutions"]),
    (AnotherFunction, {}, ["silu isn't known", "use ReLUs"]),
    (FunctionalReLU6, {}, ["relu6 isn't known", "--relu6 relu"]),
    (Hardtanh, {"relu6": True}, ["hardtanh isn't known", "raysp knows"]),
    (OwnTensor, {}, ["a tensor of the network's own isn't known", "scale", "raysp knows"]),
    (SecondInput, {}, ["'y'", "takes images alone"]),
    (NoInput, {}, ["can't be traced", "takes images alone"]),
    (Pair, {}, ["gives a tuple", "expected logits"]),
    (Dictionary, {}, ["gives a dict", "expected logits"]),
    (GivesMap, {}, ["gives a map of shape (4, 4, 4)", "expected logits"]),
    (lambda: Logits(classes=7), {}, ["7 logits", "5 classes"]),
    (NoReLU, {}, ["no ReLU"]),
    (OneConvolution, {}, ["no second convolution"]),
    (OfImages, {}, ["relu isn't known", "put a convolution before it"]),
    (Indices, {}, ["max_pool2d_with_indices isn't known", "raysp knows"]),
    (AlwaysDropsOut, {}, ["dropout isn't known", "training=self.training"]),
    (OtherDivisor, {}, ["avg_pool2d isn't known", "raysp knows"]),
    (OtherShapes, {}, ["images of 8x8 don't pass add", "--image-size"]),
    (OtherHead, {}, ["images of 8x8 don't pass fc", "[64]", "expected 4 channels", "--image-size"]),
    (Overwrites, {}, ["relu_ overwrites", "so that it doesn't"]),
    (Assigns, {}, ["can't be traced", "item assignment"]),
    (Chunks, {}, ["chunk isn't known", "raysp knows"]),
    *(
        (lambda layer=layer: Layer(layer), {}, says)
        for layer, says in (
            (nn.SiLU(), ["SiLU isn't known", "layer", "use ReLUs"]),
            (nn.ReLU6(), ["ReLU6 isn't known", "layer", "--relu6 relu"]),
            (nn.PReLU(), ["PReLU isn't known", "layer", "use ReLUs"]),
            (nn.GroupNorm(2, 4), ["GroupNorm isn't known", "layer", "raysp knows"]),
            (nn.Upsample(scale_factor=2), ["Upsample isn't known", "layer", "raysp knows"]),
            (nn.BatchNorm2d(4, track_running_stats=False), ["BatchNorm2d isn't known", "track_running_stats=True"]),
            (nn.MaxPool2d(2, return_indices=True), ["MaxPool2d isn't known", "return_indices"]),
            (nn.AvgPool2d(2, divisor_override=3), ["AvgPool2d isn't known", "divisor_override"]),
            (nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), ["Conv2d isn't known", "layer", "hooks", "remove them"]),
            (nn.Conv2d(4, 4, 7), ["images of 8x8 don't pass layer", "too small", "--image-size"]),
            (nn.Conv2d(3, 4, 3), ["images of 8x8 don't pass layer", "expected 3 channels"]),
        )
    ),
]


def _place_of(kind):
    lines, first = inspect.getsourcelines(kind)
    (line,) = [first + number for number, line in enumerate(lines) if line.rstrip().endswith("# here")]
    return f"{inspect.getsourcefile(kind)}:{line}"


@pytest.mark.parametrize(("make", "options", "says"), CASES, ids=[f"{n}-{says[0][:24]}" for n, (_, _, says) in enumerate(CASES)])
def test_what_cannot_be_traced_is_named_with_its_place(make, options, says):
    module = make()
    with pytest.raises(ValueError, match=r"(isn.t|can.t|the network|images|overwrites)") as raised:
        network_of(module, name="theirs", num_classes=5, image_size=8, **options)
    message = str(raised.value)
    assert all(part in message for part in says), message
    assert _place_of(type(module)) in message
    assert "\n" not in message
    assert "While executing" not in message


@pytest.mark.parametrize("name", ["graph", "heads"])
def test_names_that_the_network_needs_are_refused(name):
    module = Layer(nn.ReLU())
    layers = nn.Sequential()
    layers.add_module(name, nn.Conv2d(3, 4, 3))
    layers.add_module("rest", nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)))
    with pytest.raises(ValueError, match=f"a module named '{name}'.*call it something else"):
        network_of(layers, name="theirs", num_classes=5, image_size=8)
    assert network_of(module, name="theirs", num_classes=5, image_size=8)


def test_each_kind_of_trouble_is_named_once():
    class Several(Base):
        def forward(self, x):
            x = F.silu(self.conv1(x))
            x = F.silu(self.conv2(x)) * 2.0
            return self.fc(F.gelu(x).mean((2, 3)))

    with pytest.raises(ValueError, match=r"silu isn't known, at .*, and 1 more: use ReLUs; mul isn't .*; gelu isn't"):
        network_of(Several(), name="theirs", num_classes=5, image_size=8)


def test_relu6_is_a_relu_on_request_alone():
    network = network_of(Layer(nn.ReLU6()), name="theirs", num_classes=5, image_size=8, relu6=True)
    assert len(network.relu_layers()) == 2


def test_two_layers_that_share_a_weight_are_refused():
    module = nn.Sequential(
        *(nn.Conv2d(1, 1, 3, padding=1, bias=False) if i % 2 else nn.ReLU() for i in range(1, 5)), nn.Flatten()
    )
    module[2].weight = module[0].weight
    with pytest.raises(ValueError, match=r"2\.weight is 0's weight too"):
        network_of(module, name="tied", num_classes=64, image_size=8, in_channels=1)
