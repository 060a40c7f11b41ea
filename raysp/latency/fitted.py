"""Layers that nobody measured: what they cost, from those that were, by the kind of layer.

Owns the model, a regression of the logarithm of each cost on those of a layer's sizes, and its error. Contract: the error is that
of leaving out one measured layer at a time; a kind of which too few were measured is not told.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysp.latency.shapes import Shape, read_shape
from raysp.latency.tables import COSTS, PartCosts

SPARE, ENOUGH = 3, 8
"""A kind is told if so many more of its layers were measured than the model has slopes, or so many in all: the ridge does with
fewer than slopes.
"""
RIDGE = 1.0
"""What holds slopes of sizes that go together, each scaled to a standard deviation of 1."""
NEAR, NOISE = 2.0, 0.1
"""How near layers are alike, in standard deviations, and what of their costs is chance. Both chosen by the error below."""
DIGITS = 9
"""Of a cost; the last ones of a fit depend on how many threads solve it."""
BLOCK = 4096
"""Values that go into one ciphertext, roughly: a smaller layer costs no less."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far the model was off at layers that it was not fitted to, as a share of what was measured."""

    layers: int
    """How many were tried."""
    bytes_median: float
    bytes_largest: float
    time_median: float
    time_largest: float


class Fitted:
    """The model of some measured layers.

    Args:
        layers: costs by the name of a shape.
    """

    def __init__(self, layers: Mapping[str, PartCosts]) -> None:
        self._kinds: dict[str, list[tuple[Shape, PartCosts]]] = {}
        for name, costs in layers.items():
            if shape := read_shape(name):
                self._kinds.setdefault(shape.kind, []).append((shape, costs))
        self._lines: dict[tuple[str, str], _Line | None] = {}

    def costs(self, name: str) -> PartCosts | None:
        """What a layer costs, roughly; None where it can't be told."""
        shape = read_shape(name)
        if shape is None or self._line(shape.kind, "bytes") is None or self._line(shape.kind, "time_s") is None:
            return None
        at = _features(shape)
        lines = {cost: self._line(shape.kind, cost) for cost in COSTS}
        return PartCosts(**{cost: 0.0 if line is None else float(f"{line.at(at):.{DIGITS}g}") for cost, line in lines.items()})

    def error(self, kind: str) -> Error | None:
        """How far it is off for a kind of layer; None where that can't be told."""
        seconds, traffic = self._line(kind, "time_s"), self._line(kind, "bytes")
        if seconds is None or traffic is None:
            return None
        off_s, off_b = seconds.errors(), traffic.errors()
        return Error(
            layers=len(off_b),
            bytes_median=float(np.median(off_b)), bytes_largest=float(off_b.max()),
            time_median=float(np.median(off_s)), time_largest=float(off_s.max()),
        )  # fmt: skip

    def _line(self, kind: str, cost: str) -> "_Line | None":
        if (kind, cost) not in self._lines:
            # What costs nothing has no logarithm, and tells nothing.
            pairs = [
                (_features(shape), value) for shape, costs in self._kinds.get(kind, []) if (value := getattr(costs, cost)) > 0
            ]
            enough = bool(pairs) and len(pairs) >= min(len(pairs[0][0]) + SPARE, ENOUGH)
            points = (np.array([x for x, _ in pairs]), np.log([y for _, y in pairs])) if enough else None
            self._lines[kind, cost] = _Line(*points) if points else None
        return self._lines[kind, cost]


class _Line:
    """A ridge regression, and what it leaves, smoothed over alike layers.

    Args:
        x: (points, features).
        y: (points,), logarithms.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self._x, self._y = x, y
        self._centre, spread, self._start = x.mean(axis=0), x.std(axis=0), float(y.mean())
        self._scale = np.where(spread > 0, spread, 1.0)
        self._z = (x - self._centre) / self._scale
        left = y - self._start
        self._slopes: Array = np.linalg.solve(self._z.T @ self._z + RIDGE * np.eye(x.shape[1]), self._z.T @ left)
        left = left - self._z @ self._slopes
        self._weights: Array = np.linalg.solve(self._alike(self._z) + NOISE * np.eye(len(y)), left)

    def at(self, features: Array) -> float:
        """The cost."""
        z = (features - self._centre) / self._scale
        return math.exp(self._start + float(z @ self._slopes + self._alike(z[None])[0] @ self._weights))

    def errors(self) -> Array:
        """Each point's, as told by the others."""
        found = []
        for left_out in range(len(self._y)):
            others = np.arange(len(self._y)) != left_out
            line = _Line(self._x[others], self._y[others])
            found.append(abs(line.at(self._x[left_out]) / math.exp(self._y[left_out]) - 1))
        return np.array(found)

    def _alike(self, z: Array) -> Array:
        distance = np.square(z[:, None] - self._z[None]).sum(axis=-1)
        return np.asarray(np.exp(-distance / (2 * NEAR**2)))


def _features(shape: Shape) -> Array:
    """Logarithms of what a layer's costs may follow."""
    read, given = shape.channels * shape.pixels, shape.outs * shape.out_pixels
    if shape.kind == "norm":
        return np.array([math.log(read)])
    if shape.kind == "pool":
        return np.array([math.log(read), math.log(given)])
    macs = given * shape.channels * shape.kernel
    sizes = [math.log(read), math.log(given), math.log(macs), *(math.log1p(size / BLOCK) for size in (read, given, macs))]
    if shape.kind == "linear":
        return np.array(sizes)
    return np.array([*sizes, math.log(shape.kernel), math.log(shape.stride), float(shape.is_image)])
