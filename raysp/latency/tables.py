"""What the parts of a network family cost, as it was measured: a calibration, and its file.

Owns the form and the reading of files, with mistrust. Contract: a calibration holds for one protocol, one machine and the
versions that it names.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raysp.latency.protocols import MEANING
from raysp.store.location import Location, read_given
from raysp.store.reasons import why

FORMAT = 1
MOST = 1e18
"""More of a cost is taken for damage: sums must stay finite."""
COSTS = ("time_s", "bytes", "messages", "round_trips")
"""The fields of `PartCosts`."""


@dataclass(frozen=True, kw_only=True)
class PartCosts:
    """What one part of a network takes in a warm run."""

    time_s: float
    bytes: float
    """Sent by both parties."""
    messages: float
    """Likewise."""
    round_trips: float
    """At most so many: messages of the party that sends fewer."""

    def __add__(self, other: "PartCosts") -> "PartCosts":
        return PartCosts(
            time_s=self.time_s + other.time_s,
            bytes=self.bytes + other.bytes,
            messages=self.messages + other.messages,
            round_trips=self.round_trips + other.round_trips,
        )

    def times(self, count: float) -> "PartCosts":
        """So many of them."""
        return PartCosts(
            time_s=count * self.time_s,
            bytes=count * self.bytes,
            messages=count * self.messages,
            round_trips=count * self.round_trips,
        )


NOTHING = PartCosts(time_s=0.0, bytes=0.0, messages=0.0, round_trips=0.0)


@dataclass(frozen=True, kw_only=True)
class ReLUCosts:
    """A ReLU layer takes `layer`, and for each ReLU that it keeps `relu`; `renewal` is each ReLU's part in renewing the stock of
    correlated randomness, which falls on some runs and not on others. A masked layer takes `position_s` more for each position.
    """

    layer: PartCosts
    relu: PartCosts
    position_s: float
    renewal: PartCosts

    def of(self, *, layers: int, kept: int, masked_positions: int) -> PartCosts:
        """What some ReLU layers take.

        Args:
            layers: that keep a ReLU.
            kept: ReLUs in all of them.
            masked_positions: of the layers among them that don't keep all of theirs.
        """
        costs = self.layer.times(layers) + (self.relu + self.renewal).times(kept)
        return costs + PartCosts(time_s=self.position_s * masked_positions, bytes=0.0, messages=0.0, round_trips=0.0)


FITTED = ("layer", "relu", "renewal")
"""Costs of ReLUs that a line was laid through."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the parts of a family take."""

    protocol: str
    engine: str = "spu"
    """The package whose version costs depend on. Files of before it was kept are of SPU."""
    family: Mapping[str, Any]
    """The arguments of `raysp.pi.calibration.family`."""
    layers: Mapping[str, PartCosts]
    """By the name of a layer's shape (`raysp.latency.shapes`)."""
    relu: ReLUCosts
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    others_cores: float | None
    """That other processes kept busy meanwhile; where it is more than a tenth, the times are too long."""

    def to_json(self) -> dict[str, Any]:
        """As a file keeps it."""
        return {"format": FORMAT, **asdict(self)}


def read_calibration(path: Location) -> Calibration:
    """Read a calibration's file. Raises ValueError when it is none."""
    return parse_calibration(read_given(path, "a file that `raysp pi calibrate` wrote"), str(path))


def parse_calibration(content: bytes, where: str) -> Calibration:
    """Read a calibration.

    Args:
        content: of its file.
        where: what to call the file.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(content)
        if found.pop("format") != FORMAT or found["protocol"] not in MEANING:
            raise ValueError(f"not of format {FORMAT}, or of no protocol known here")
        for costs in (
            *found["layers"].values(),
            {"position_s": found["relu"]["position_s"]},
            *(found["relu"][n] for n in FITTED),
        ):
            for name, cost in costs.items():
                if not (type(cost) in (int, float) and abs(cost) <= MOST):
                    raise ValueError(f"a {name} is {json.dumps(cost):.40}; expected a number of at most {MOST:g}")
        others = found.get("others_cores")
        if others is not None and not (type(others) in (int, float) and 0 <= others <= MOST):
            raise ValueError(f"others_cores is {json.dumps(others):.40}; expected a number of at least 0, or null")
        if any(
            cost < 0 for costs in found["layers"].values() for cost in costs.values()
        ):  # what was fitted may be a little below
            raise ValueError("a layer costs less than nothing")
        if not all(isinstance(found[name], dict) for name in ("family", "versions", "machine")):
            raise ValueError("its family, versions and machine are not objects")
        if not isinstance(found.get("engine", ""), str):
            raise ValueError("its engine is no name")
        relu = found.pop("relu")
        return Calibration(
            **(found | {"layers": {name: PartCosts(**costs) for name, costs in found["layers"].items()}}),
            relu=ReLUCosts(position_s=relu["position_s"], **{name: PartCosts(**relu[name]) for name in FITTED}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{where}: not a calibration ({why(error)}); make it anew: raysp pi calibrate") from None
