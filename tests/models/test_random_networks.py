"""Random small networks: what holds for those that others wrote holds for these."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from traced import CHECKS, randomise_norms

CLASSES, SIZE = 3, 8
RELUS = (lambda x: x, F.relu, lambda x: x, torch.relu, lambda x: x.relu())


class Drawn(nn.Module):
    """A network of drawn steps, each of which reads maps that are there and adds one. Before the resolution falls, and at the
    end, what no step has read is concatenated.
    """

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.relu = nn.ReLU()
        self.forward(torch.zeros(2, 3, SIZE, SIZE))  # makes the modules

    def made(self, make):
        """The module of this place: made in the first run, found in others."""
        name, self.number = f"layer{self.number}", self.number + 1
        if name not in self._modules:
            self.add_module(name, make())
        return self._modules[name]

    def conv(self, x, num_out, norm, **options):
        channels = self.widths[id(x)]
        groups = options.pop("groups", 1) if channels % 2 == num_out % 2 == 0 else 1
        conv = self.made(lambda: nn.Conv2d(channels, num_out, groups=groups, bias=not norm, **options))
        y = conv(x)
        return self.kept(self.made(lambda: nn.BatchNorm2d(num_out))(y) if norm else y, num_out)

    def kept(self, x, channels):
        self.widths[id(x)] = channels
        self.alive.append(x)  # so that no other gets its id
        return x

    def active(self, x, kind):
        return self.kept(RELUS[kind](x) if kind < 5 else self.relu(x), self.widths[id(x)])

    def joined(self, maps, read):
        left = [x for number, x in enumerate(maps) if number not in read]
        return self.kept(torch.cat(left, 1), sum(self.widths[id(x)] for x in left)) if len(left) > 1 else left[0]

    def forward(self, image):
        self.number, self.widths, self.alive = 0, {id(image): 3}, [image]
        shrunk = 0
        maps, read = [self.active(self.conv(image, 4, norm=True, kernel_size=3, padding=1), 1)], set()
        for kind, first, second, detail, norm in self.steps:
            i, j = first % len(maps), second % len(maps)
            x, y = maps[i], maps[j]
            width, other = self.widths[id(x)], self.widths[id(y)]
            if kind == "conv":
                kernel = (1, 3, 3, 5)[detail % 4]
                gaps = 2 if detail == 2 else 1
                z = self.conv(
                    x,
                    4 + 2 * (detail % 3),
                    norm,
                    kernel_size=kernel,
                    padding=gaps * (kernel // 2),
                    dilation=gaps,
                    groups=1 + detail % 2,
                )
                z = self.active(z, second)
            elif kind == "pair":
                z = self.active(self.conv(x, 4, norm, kernel_size=3, padding=1, groups=1 + detail % 2), 1 + detail % 4)
                z = self.conv(z, width, norm, kernel_size=(1, 3), padding=(0, 1))
                z = self.active(self.kept(z + x, width), second)
            elif kind == "reuse":
                shared = self.made(lambda width=width: nn.Conv2d(width, width, 3, padding=1))
                z = self.kept(F.relu(shared(x)), width)
                z = self.kept(shared(z) + x if detail % 2 else shared(z), width)
            elif kind == "add" and width == other:
                z = self.kept(torch.add(x, y) if detail % 2 else sum([x, y, x]), width)
                z = self.active(z, detail)
            elif kind == "norm":
                z = self.conv(x, width, norm=False, kernel_size=3, padding=1)
                z = self.kept(self.made(lambda width=width: nn.BatchNorm2d(width))(z) + z, width)
                z = self.active(z, second)
            elif kind == "cat":
                z = self.kept(torch.cat([x, y], dim=1), width + other)
                z = self.conv(z, 4, norm, kernel_size=1)
            elif kind == "slice" and width > 2:
                z = self.kept(F.pad(x[:, 1:], (0, 0, 0, 0, 0, 1)) if detail % 2 else x[:, :2], width if detail % 2 else 2)
            elif kind == "pool":
                z = self.kept(F.max_pool2d(x, 3, 1, 1) if detail % 2 else F.avg_pool2d(x, 3, stride=1, padding=1), width)
            elif kind == "down" and shrunk < 2:
                shrunk += 1
                x = self.joined(maps, read)
                z = self.active(self.conv(x, 4, norm, kernel_size=3, stride=2, padding=1), 1 + detail)
                maps, read = [z], set()
                continue
            else:
                continue
            maps.append(z)
            read |= {i, j} if kind in ("add", "cat") else {i}
        x = self.active(self.conv(self.joined(maps, read), 6, norm=True, kernel_size=3, padding=1), 1)
        return self.made(lambda: nn.Linear(6, CLASSES))(x.mean((2, 3)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "pair", "reuse", "add", "cat", "slice", "pool", "norm", "down"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=2,
    max_size=7,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_random_networks(steps):
    torch.manual_seed(0)
    module = randomise_norms(Drawn(steps).double())
    for check in CHECKS:
        check(module, SIZE, CLASSES)
