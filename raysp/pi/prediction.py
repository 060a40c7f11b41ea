"""What a collapsed network will take under private inference, from a calibration of its family.

Owns the sum, and the model of a network between the parties. Needs no extra. Contract: what is predicted for the calibration's
own machine was measured part by part; what is said of a LAN or a WAN is modelled, and named so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.costs import WAN_BITS_PER_S, WAN_ROUND_TRIP_S
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU
from raysp.pi.calibration import Calibration, PartCosts
from raysp.pi.graph import graph_of
from raysp.pi.shapes import shape_of


@dataclass(frozen=True, kw_only=True)
class Link:
    """A network between the parties.

    Raises:
        ValueError: no such network.
    """

    bits_per_s: float
    """Of both directions together, more than 0."""
    round_trip_s: float

    def __post_init__(self) -> None:
        if not (self.bits_per_s > 0 and self.round_trip_s >= 0):
            raise ValueError(
                f"{self.bits_per_s:g} bit/s and a round trip of {self.round_trip_s:g} s; expected more than 0, and at least 0"
            )

    def modelled_s(self, *, time_s: float, num_bytes: float, round_trips: float) -> float:
        """Time over this link, modelled, of what took `time_s` on one machine: traffic, and a wait for each round trip, on top.

        An upper bound: engines send while they compute, and not every message is waited for.
        """
        return time_s + 8 * num_bytes / self.bits_per_s + round_trips * self.round_trip_s


LAN = Link(bits_per_s=3e9, round_trip_s=0.3e-3)
"""The local network of Cheetah (USENIX Security 2022)."""
WAN = Link(bits_per_s=WAN_BITS_PER_S, round_trip_s=WAN_ROUND_TRIP_S)
"""Its wide-area network."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a warm run of one image will take."""

    time_s: float
    """Both parties on the calibration's machine."""
    bytes: float
    """Sent by both."""
    messages: float
    round_trips: float
    """At most."""
    modelled_s: dict[str, float]
    """Over a network between the parties, by its name: modelled, not measured."""
    layers: tuple[dict[str, Any], ...]
    """The same per layer, in forward order."""

    def summary(self) -> dict[str, Any]:
        """All but the layers."""
        return {name: value for name, value in asdict(self).items() if name != "layers"}


def predict(
    model: Network,
    exit: str,  # noqa: A002 (the field's word)
    calibration: Calibration,
    links: Sequence[tuple[str, Link]] = (("LAN", LAN), ("WAN", WAN)),
) -> Prediction:
    """Add up what a network's parts take.

    Args:
        model: left as it is; it is collapsed to the exit and folded.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.
        calibration: of a family that has all of its layers.
        links: networks between the parties, by name.

    Raises:
        ValueError: no such exit, or a layer that the calibration doesn't have.
    """
    graph = graph_of(fold_batchnorm(collapse(model, exit)))
    layers = []
    for operation in graph.operations:
        costs = None
        if isinstance(operation.module, MaskedReLU):
            costs = _relu(operation.module, calibration)
        elif shape := shape_of(operation, graph):
            costs = calibration.layers.get(shape)
            if costs is None:
                raise ValueError(
                    f"{operation.layer}: {shape} is not in the calibration of {dict(calibration.family)}; calibrate its "
                    "family: with its --model, --width, --image-size, --in-channels, --num-classes, --kernels and --heads"
                )
        if costs is not None:
            layers.append({"layer": operation.layer, **asdict(costs)})
    total = {name: sum(layer[name] for layer in layers) for name in ("time_s", "bytes", "messages", "round_trips")}
    modelled = {
        name: link.modelled_s(time_s=total["time_s"], num_bytes=total["bytes"], round_trips=total["round_trips"])
        for name, link in links
    }
    return Prediction(**total, modelled_s=modelled, layers=tuple(layers))


def _relu(module: MaskedReLU, calibration: Calibration) -> PartCosts:
    costs, kept = calibration.relu, module.kept
    masked_s = costs.position_s * module.size if kept < module.size else 0.0
    values = {
        name: getattr(costs.layer, name) + kept * (getattr(costs.relu, name) + getattr(costs.renewal, name))
        for name in ("time_s", "bytes", "messages", "round_trips")
    }
    return PartCosts(**(values | {"time_s": values["time_s"] + masked_s}))
