"""A network that is written to a file of its own, as a user's is."""

import sys
from contextlib import contextmanager

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 1)
        self.last = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.norm1(self.conv1(x)))))
        x = F.relu(self.down(x))
        x = torch.relu(torch.cat([self.conv3(x)[:, :4], x[:, 4:]], 1))
        return self.last(x.mean((2, 3)))


def build(num_classes, in_channels):
    return Small(num_classes, in_channels)


def wider(num_classes, in_channels):
    return Small(num_classes, in_channels, width=6)


def again(num_classes, image_size, in_channels):
    return build(num_classes, in_channels)


def passes_on(num_classes, **more):
    return build(num_classes, **more)


def asserts(num_classes):
    assert num_classes == 100


def fails(num_classes):
    raise RuntimeError("no such luck")


def silu(num_classes):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU())


def ends(num_classes):
    raise SystemExit(0)


class Spare(Small):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.spare = nn.Linear(3, 3)


number = 3
network = Small(10, 1)
"""


def write(directory, name="small"):
    """Write the module `name`; returns its file."""
    path = directory / f"{name}.py"
    path.write_text(SOURCE)
    return path


@contextmanager
def working_in(directory, name, monkeypatch):
    """Work in a directory that holds the module, which is forgotten afterwards."""
    write(directory, name)
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield directory
    sys.modules.pop(name, None)
