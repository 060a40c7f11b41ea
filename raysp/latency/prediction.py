"""What a collapsed network will take under private inference, from calibrations of its layers.

Owns the list of a network's parts, and the sum. Needs no extra. Contract: what is predicted for the calibrations' own machine was
measured part by part, or is named as fitted; what is said of a link is modelled, and named so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysp.latency.graph import graph_of
from raysp.latency.known import Calibrations
from raysp.latency.links import LAN, WAN, Link
from raysp.latency.shapes import shape_of
from raysp.latency.tables import COSTS, NOTHING
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a network that costs something."""

    layer: str
    """Its name in the network."""
    shape: str | None
    """The name of its shape; None of a ReLU layer."""
    kept: int = 0
    """ReLUs, of a ReLU layer."""
    positions: int = 0
    """That could hold one."""


def parts_of(model: Network, exit: str) -> tuple[Part, ...]:  # noqa: A002 (the field's word)
    """A network's parts in forward order; nothing is computed, and weights may be on "meta".

    Args:
        model: left as it is; it is collapsed to the exit and folded.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.

    Raises:
        ValueError: no such exit, or what can't be run.
    """
    graph = graph_of(fold_batchnorm(collapse(model, exit)))
    parts = []
    for operation in graph.operations:
        module = operation.module
        if isinstance(module, MaskedReLU):
            parts.append(Part(layer=operation.layer, shape=None, kept=module.kept, positions=module.size))
        elif shape := shape_of(operation, graph):
            parts.append(Part(layer=operation.layer, shape=shape))
    return tuple(parts)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a warm run of one image will take."""

    time_s: float
    """Both parties on the calibrations' machine."""
    bytes: float
    """Sent by both."""
    messages: float
    round_trips: float
    """At most."""
    modelled_s: dict[str, float]
    """Over a link between the parties, by its name: modelled, not measured."""
    calibration: str
    """The calibration that has most of its layers."""
    fitted: tuple[str, ...]
    """Layers that no calibration has, whose costs are fitted to those of others."""
    layers: tuple[dict[str, Any], ...]
    """The same per layer, in forward order."""

    def summary(self) -> dict[str, Any]:
        """All but the layers, as a file keeps it."""
        return {**{name: value for name, value in asdict(self).items() if name != "layers"}, "fitted": list(self.fitted)}


def predict(
    model: Network,
    exit: str,  # noqa: A002 (the field's word)
    calibrations: Calibrations,
    links: Sequence[Link] = (LAN, WAN),
) -> Prediction:
    """Add up what a network's parts take.

    Args:
        model: left as it is; it is collapsed to the exit and folded.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.
        calibrations: at best of a family that has all of its layers.
        links: networks between the parties.

    Raises:
        ValueError: no such exit, or a layer that can't be told.
    """
    parts = parts_of(model, exit)
    told = calibrations.told([part.shape for part in parts if part.shape])
    if unknown := next((part for part in parts if part.shape in told.open), None):
        raise ValueError(
            f"{unknown.layer}: {unknown.shape} is in no calibration here ({', '.join(calibrations.named)}), and too few like "
            "it are to tell; calibrate its family: raysp pi calibrate with its --model, --width, --image-size, --in-channels, "
            "--num-classes, --kernels and --heads"
        )
    costs = [
        told.costs[part.shape]
        if part.shape
        else told.relu.of(layers=1, kept=part.kept, masked_positions=part.positions * (part.kept < part.positions))
        for part in parts
    ]
    total = sum(costs, NOTHING)
    modelled = {
        link.name: link.modelled_s(time_s=total.time_s, num_bytes=total.bytes, round_trips=total.round_trips) for link in links
    }
    return Prediction(
        **{cost: getattr(total, cost) for cost in COSTS},
        modelled_s=modelled,
        calibration=told.calibration,
        fitted=tuple(part.layer for part in parts if part.shape in told.fitted),
        layers=tuple({"layer": part.layer, **asdict(of_part)} for part, of_part in zip(parts, costs, strict=True)),
    )
