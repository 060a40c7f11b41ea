"""Networks as a user would write them: of torchvision, and small ones, each with something that a trace can get wrong."""

import functools

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

CLASSES = 5


class FunctionalReLUs(nn.Module):
    """Functions and methods in place of modules, biases in place of batch norms, a view as the head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3)
        self.conv4, self.fc1, self.fc2 = nn.Conv2d(6, 4, 3, padding=1), nn.Linear(4 * 4 * 4, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = torch.relu(self.conv2(F.max_pool2d(x, 2, stride=1, padding=1)))
        x = self.conv3(x).relu_()
        x = F.relu(self.conv4(F.avg_pool2d(x, 2)), inplace=True)
        x = x.view(x.size(0), -1)
        return self.fc2(F.dropout(self.fc1(x).relu(), 0.3, self.training))


class ReusedReLU(nn.Module):
    """One module of ReLU for all places, beside a function of the same name, and one skip with option A: sliced and padded."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv4, self.bn4 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv5, self.bn5 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))
        y += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        x = torch.relu(y)
        y = self.bn5(self.conv5(self.relu(self.bn4(self.conv4(x)))))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


class OptionA(nn.Module):
    """Option A with its pads and slices written in other ways."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.conv2b, self.conv3 = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(8, CLASSES))

    def forward(self, x):
        x = F.relu(self.conv1(x))
        skip = F.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, 0, 4))
        x = F.relu(self.conv2b(F.relu(self.conv2(x))) + skip)
        low, high = x[:, :3], x[:, 3:]
        return self.head(
            self.conv3(torch.cat([high, low], 1)).relu() + F.pad(low, pad=(0, 0, 0, 0, 5, 0), mode="constant", value=0.0)
        )


class SharedConvolution(nn.Module):
    """A convolution, a batch norm and a block that are called twice; a convolution that others than its batch norm read."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.conv, self.bn, self.relu = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.bn2, self.conv3, self.bn3 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
        self.pair = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, (1, 5), padding=(0, 2)))
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        y = self.relu(self.bn(self.conv(x)))
        x = self.relu(self.bn(self.conv(y)) + x)
        x = self.relu(self.bn2(self.conv(x)) + self.bn2(x))
        y = self.conv3(x)
        x = self.relu(self.bn3(y) + y)
        x = self.relu(x + self.block(x))
        x = self.relu(x + self.block(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.pair(x) + x, 1), 1))


class Concatenations(nn.Module):
    """Branches side by side and dense ones, of convolutions with groups, gaps and strides."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.left = nn.Sequential(
            nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2)
        )
        self.right = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=4),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.Conv2d(8, 8, 1, groups=2),
            nn.BatchNorm2d(8),
        )
        self.pool = nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), nn.Conv2d(8, 2, 1))
        self.norm = nn.BatchNorm2d(18)
        self.down = nn.Sequential(
            nn.Conv2d(18, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8, affine=False),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8, momentum=None),
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(8 * 3 * 3, 9), nn.BatchNorm1d(9), nn.ReLU()
        )
        self.fc = nn.Linear(9, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([self.left(x), self.right(x), self.pool(x)], dim=1)
        x = self.down(F.relu(self.norm(x)))
        return self.fc(self.head(x))


class SeveralInputs(nn.Module):
    """Additions of several, of one with itself, chained and by `sum`; a map that is read before and behind its ReLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3))
        self.pair = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, padding=1))
        self.skip, self.fc = nn.Conv2d(4, 4, 1, stride=4), nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.bn(self.stem(x))
        y = F.relu(x)
        x = F.relu(sum([self.a(y), self.b(y), self.c(x), x]))
        z = self.a(x) + x + x
        z = torch.add(z, z)
        z = torch.relu(z.add_(self.b(F.relu(z))))
        z = F.relu(self.pair(z) + self.skip(z))
        return self.fc(z.mean(dim=[-2, -1], keepdim=True).squeeze(-1).squeeze(-1))


class Unpadded(nn.Module):
    """No padding and no batch norms: what two convolutions see is more than a small kernel may skip."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, (3, 1)), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 6, (1, 3), padding=(0, 1)), nn.ReLU(),
        )  # fmt: skip
        self.fc = nn.Linear(6 * 2 * 3, CLASSES)

    def forward(self, x):
        return self.fc(self.layers(x).reshape(x.shape[0], -1))


class InPlace(nn.Module):
    """Maps that are overwritten and then read by the name that they had before."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.bn, self.relu, self.fc = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.bn(self.conv1(x))
        kept = x.clone()
        y = self.relu(x)
        z = self.conv2(x + y)  # both are behind the ReLU
        also = z
        also += kept
        z.relu_()
        w = self.bn(self.conv3(z + also))
        F.relu(w, inplace=True)
        w.add_(z)
        return self.fc(w.mean((2, 3)))


class TakenNames(nn.Module):
    """Modules with the names that raysp's own operations and the image have."""

    def __init__(self):
        super().__init__()
        self.image, self.add, self.cat = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.pad, self.slice, self.relu = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
        )
        self.gate, self.shallow, self.head = nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x):
        x = F.relu(self.image(x))
        y = torch.cat([x + x, x], 1)
        y = F.relu(self.add(self.cat(y)) + F.pad(x[:, :2], (0, 0, 0, 0, 1, 1)))
        y = self.relu(self.gate(self.slice(self.pad(y))))
        y = self.shallow(y.relu()).relu()
        return self.head(y.mean((2, 3)))


def narrowed(build, on="cpu", **kwargs):
    """A network with a quarter of its channels; all else is as it was. Weights that are only drawn to go can be on "meta"."""
    with torch.device(on):
        net = build(num_classes=CLASSES, **kwargs)
    for parent in list(net.modules()):
        for name, old in list(parent.named_children()):
            if isinstance(old, nn.Conv2d):
                num_in, num_out = _quarter(old.in_channels), _quarter(old.out_channels)
                groups = num_in if old.groups == old.in_channels else old.groups
                keep = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation")}
                new = nn.Conv2d(num_in, num_out, groups=groups, bias=old.bias is not None, **keep)
            elif isinstance(old, nn.BatchNorm2d):
                new = nn.BatchNorm2d(_quarter(old.num_features), eps=old.eps)
            elif isinstance(old, nn.Linear):
                new = nn.Linear(_quarter(old.in_features), _quarter(old.out_features))
            else:
                continue
            parent.add_module(name, new)
    return net


def _quarter(number):
    return number if number in (3, CLASSES) else number // 4


OWN = {kind.__name__: kind for kind in (
    FunctionalReLUs, ReusedReLU, OptionA, SharedConvolution, Concatenations, SeveralInputs, Unpadded, InPlace, TakenNames,
)}  # fmt: skip
OWN_SIZE = 12
"""Height and width of their images."""


TORCHVISION = {name: functools.partial(narrowed, getattr(torchvision.models, name)) for name in (
    "resnet18", "resnet34", "resnet50", "wide_resnet50_2", "densenet121", "regnet_x_400mf", "mobilenet_v2",
)}  # fmt: skip
TORCHVISION["googlenet"] = functools.partial(narrowed, torchvision.models.googlenet, aux_logits=False, init_weights=False)
TORCHVISION["vgg16_bn"] = functools.partial(narrowed, torchvision.models.vgg16_bn, on="meta")
TORCHVISION_SIZE = 32
