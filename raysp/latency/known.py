"""Several calibrations as one: which of them a network is told by, and what of it none of them has.

Owns the choice, and the calibrations that come with the package (`calibrations/*.json`). Contract: all are of one protocol and
one machine, so that seconds can be added and compared; a layer's cost is measured where one of them has it, else fitted, else
open.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources

from raysp.latency.fitted import Error, Fitted
from raysp.latency.shapes import read_shape
from raysp.latency.tables import Calibration, PartCosts, ReLUCosts, parse_calibration, read_calibration
from raysp.store.location import Location


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is known of a network's layers."""

    calibration: str
    """The one that has most of them, by name; ReLUs are its own."""
    costs: Mapping[str, PartCosts]
    """By shape."""
    relu: ReLUCosts
    fitted: frozenset[str]
    """Shapes that no calibration has."""
    open: frozenset[str]
    """Shapes among them that can't be told either; they are not in `costs`."""


class Calibrations:
    """Calibrations that belong together.

    Args:
        named: by what to call them; the first ones count where several have a layer.

    Raises:
        ValueError: there is none, or they are of several protocols, machines, engines or versions of one.
    """

    def __init__(self, named: Mapping[str, Calibration]) -> None:
        if not named:
            raise ValueError("no calibration; expected one or more files that `raysp pi calibrate` wrote")
        self.named = dict(named)
        first_name, self.first = next(iter(named.items()))
        for name, other in named.items():
            for what, mine, one in (
                ("protocol", other.protocol, self.first.protocol),
                ("machine", other.machine, self.first.machine),
                ("engine", other.engine, self.first.engine),
                (f"version of {other.engine}", other.versions.get(other.engine), self.first.versions.get(other.engine)),
            ):
                if mine != one:
                    raise ValueError(
                        f"{first_name} and {name} are of another {what} each ({one}; {mine}): their costs can't be added; "
                        "give those of one"
                    )
        self._layers: dict[str, PartCosts] = {}
        for calibration in named.values():
            self._layers = {**calibration.layers, **self._layers}
        self._fitted = Fitted(self._layers)

    def told(self, shapes: Sequence[str]) -> Told:
        """What is known of a network with layers of these shapes."""
        distinct = set(shapes)
        name = max(self.named, key=lambda name: len(distinct & self.named[name].layers.keys()))  # of equally good ones the first
        base = self.named[name]
        costs = {shape: base.layers.get(shape) or self._layers.get(shape) or self._fitted.costs(shape) for shape in distinct}
        return Told(
            calibration=name,
            costs={shape: known for shape, known in costs.items() if known is not None},
            relu=base.relu,
            fitted=frozenset(distinct - self._layers.keys()),
            open=frozenset(shape for shape, known in costs.items() if known is None),
        )

    def has_any(self, shapes: Iterable[str]) -> bool:
        """Whether a convolution among these shapes was measured."""
        return any(shape in self._layers for shape in shapes if shape.startswith("conv"))

    def error(self, shape: str) -> Error | None:
        """How far fitted costs of such a layer are off; None where that can't be told."""
        read = read_shape(shape)
        return None if read is None else self._fitted.error(read.kind)

    @functools.cached_property
    def digest(self) -> str:
        """A sha256, as 64 hex digits, of all that is predicted by: equal ones tell the same of every network."""
        costs = [[asdict(c.relu), {name: asdict(cost) for name, cost in c.layers.items()}] for c in self.named.values()]
        return hashlib.sha256(json.dumps(costs, sort_keys=True).encode()).hexdigest()

    @property
    def others_cores(self) -> float | None:
        """The most cores that others kept busy while one of them was made; None where nobody knows."""
        known = [c.others_cores for c in self.named.values() if c.others_cores is not None]
        return max(known, default=None)


def read_calibrations(paths: Sequence[Location]) -> Calibrations:
    """Read calibrations' files, which are called by their names.

    Raises:
        ValueError: one is none, or they don't belong together.
    """
    return Calibrations({str(path): read_calibration(path) for path in paths})


@functools.cache
def packaged() -> Calibrations:
    """The calibrations that come with the package, by their files' names."""
    files = sorted((resources.files("raysp.latency") / "calibrations").iterdir(), key=lambda file: file.name)
    return Calibrations(
        {
            file.name.removesuffix(".json"): parse_calibration(file.read_bytes(), file.name)
            for file in files
            if ".json" in file.name
        }
    )


_handed_in: dict[str, Calibrations] = {}
"""A user's own, by their digest."""


def hand_in(calibrations: Calibrations) -> None:
    """Let `by_digest` find a user's own calibrations, in this process."""
    _handed_in[calibrations.digest] = calibrations


def by_digest(digest: str) -> Calibrations | None:
    """The calibrations of a digest: the package's, or some that were handed in; None where they are neither."""
    return _handed_in.get(digest) or (packaged() if packaged().digest == digest else None)
