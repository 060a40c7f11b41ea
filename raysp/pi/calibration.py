"""Measuring the parts of a network family once, from which the cost of any of its members follows.

Owns what is measured and how it is kept. Needs the extra `pi` to measure, none to read. Contract: a calibration holds for one
protocol, one machine and the versions that it names.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from raysp.models import build_model
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.exits import AC_HEADS, FINAL, exit_name
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU
from raysp.pi import machine
from raysp.pi.graph import Graph, Operation, graph_of
from raysp.pi.program import compile_program
from raysp.pi.protocols import MEANING
from raysp.pi.session import Session, session
from raysp.pi.shapes import alone, shape_of
from raysp.store.location import Location
from raysp.store.tensor_files import read_file

FORMAT = 1
SHARES_KEPT = (1.0, 0.5, 0.1)
"""Of a map's positions, for which its ReLU is measured."""


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


@dataclass(frozen=True, kw_only=True)
class ReLUCosts:
    """A ReLU layer takes `layer`, and for each ReLU that it keeps `relu`; `renewal` is each ReLU's part in renewing the stock of
    correlated randomness, which falls on some runs and not on others. A masked layer takes `position_s` more for each position.
    """

    layer: PartCosts
    relu: PartCosts
    position_s: float
    renewal: PartCosts


FITTED = ("layer", "relu", "renewal")
"""Costs of ReLUs that a line was laid through."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the parts of a family take."""

    protocol: str
    family: Mapping[str, Any]
    """The arguments of `calibrate`."""
    layers: Mapping[str, PartCosts]
    """By the name of a layer's shape (`raysp.pi.shapes`)."""
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
    content = read_file(path)
    if content is None:
        raise ValueError(f"no {path}; expected a file that `raysp pi calibrate` wrote")
    try:
        found = json.loads(content)
        if found.pop("format") != FORMAT or found["protocol"] not in MEANING:
            raise ValueError(f"not of format {FORMAT}, or of no protocol known here")
        for costs in (
            *found["layers"].values(),
            {"position_s": found["relu"]["position_s"]},
            *(found["relu"][n] for n in FITTED),
        ):
            if not all(type(cost) in (int, float) and math.isfinite(cost) for cost in costs.values()):
                raise ValueError(f"{costs}; expected finite numbers")
        if any(
            cost < 0 for costs in found["layers"].values() for cost in costs.values()
        ):  # what was fitted may be a little below
            raise ValueError("a layer costs less than nothing")
        relu = found.pop("relu")
        return Calibration(
            **(found | {"layers": {name: PartCosts(**costs) for name, costs in found["layers"].items()}}),
            relu=ReLUCosts(position_s=relu["position_s"], **{name: PartCosts(**relu[name]) for name in FITTED}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a calibration ({error!r:.120}); make it anew: raysp pi calibrate") from None


def family(
    model: str,
    *,
    num_classes: int,
    image_size: int,
    in_channels: int,
    width: int | None,
    kernels: Iterable[int],
    heads: Iterable[str],
) -> list[Network]:
    """Networks that together have every layer of a family's collapsed members: the plain one, one with all blocks shallow for
    each kernel, and one per auxiliary head and stage. Their weights mean nothing.

    Raises:
        ValueError: see `build_model`; or no such kernel or head.
    """
    kernels, heads = list(kernels), list(heads)
    if bad := [kernel for kernel in kernels if kernel not in (3, 5)] + [head for head in heads if head not in AC_HEADS]:
        raise ValueError(f"{bad[0]!r}; expected kernels of 3 or 5, heads of {', '.join(AC_HEADS)}")

    def build() -> Network:
        return build_model(model, num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width).eval()

    members = [collapse(build(), FINAL)]
    for kernel in kernels:
        shallow = build()
        for _, block in shallow.gated_blocks():
            block.add_shallow_branch(kernel)
        members.append(collapse(shallow, FINAL))
    for head in heads:
        for stage in range(1, members[0].num_stages):
            early = build()
            early.add_exit(stage, head)
            members.append(collapse(early, exit_name(stage)))
    return [fold_batchnorm(member) for member in members]


def parts_of(networks: Iterable[Network]) -> tuple[dict[str, tuple[Operation, bool]], dict[tuple[int, ...], Operation]]:
    """The distinct layers of some networks: by shape, with whether they read the image; and one ReLU per shape of map."""
    layers: dict[str, tuple[Operation, bool]] = {}
    relus: dict[tuple[int, ...], Operation] = {}
    for network in networks:
        graph = graph_of(network)
        for operation in graph.operations:
            if shape := shape_of(operation, graph):
                layers.setdefault(shape, (operation, operation.inputs[0] == graph.input_name))
            elif isinstance(operation.module, MaskedReLU):
                relus.setdefault(operation.shape, operation)
    return layers, relus


def calibrate(
    networks: Sequence[Network],
    *,
    protocol: str,
    described: Mapping[str, Any],
    runs: int = 5,
    limit_s: float = 7200.0,
    tell: Callable[[str], None] = lambda message: None,
) -> Calibration:
    """Measure each distinct layer, and ReLUs of several counts, each as a program of its own.

    Args:
        networks: collapsed, folded ones that together have all layers; see `family`.
        protocol: see `raysp.pi.protocols`.
        described: what they are, for the file.
        runs: of each part, all warm.
        limit_s: seconds after which it is given up.
        tell: told what is being measured.
    """
    random = torch.Generator().manual_seed(0)
    own_s: list[float] = []

    def measure(parties: Session, graph: Graph, *, shared: bool) -> "list[_Point]":
        image = torch.randn(graph.input_shape, generator=random)
        parties.load(compile_program(graph, image, shared=shared))
        points = [_Point.of(parties.run()[0]) for _ in range(runs)]
        own_s.extend(point.cpu_s for point in points)
        return points

    layers, relus = parts_of(networks)
    measured: dict[str, list[_Point]] = {}
    counted: list[tuple[int, int, list[_Point]]] = []
    with machine.alone(tell), session(protocol, limit_s=limit_s) as parties:
        first = next(iter(relus.values()))
        measure(parties, alone(first), shared=True)  # the parties' first runs are cold, whatever they run
        measure(parties, alone(next(iter(layers.values()))[0]), shared=True)
        watch, before_s = machine.Watch(), time.process_time()
        own_s.clear()
        for name, (operation, reads_image) in layers.items():
            tell(name)
            measured[name] = measure(parties, alone(operation), shared=not reads_image)
        for shape, operation in relus.items():
            for share in SHARES_KEPT:
                assert isinstance(operation.module, MaskedReLU)
                size = operation.module.size
                kept = max(1, round(share * size))
                tell(f"{kept} ReLUs of {'x'.join(map(str, shape))}")
                operation.module.set_mask((torch.randperm(size, generator=random) < kept).view(operation.module.shape))
                counted.append((kept, size, measure(parties, alone(operation), shared=True)))
        others = watch.others_cores(sum(own_s) + time.process_time() - before_s)
    return Calibration(
        protocol=protocol,
        family=dict(described),
        layers={name: _typical(points) for name, points in measured.items()},
        relu=_fit(counted),
        versions=machine.versions(),
        machine=machine.describe(),
        others_cores=others,
    )


@dataclass(frozen=True)
class _Point:
    """One run of one part."""

    time_s: float
    bytes: int
    messages: int
    round_trips: int
    cpu_s: float

    @classmethod
    def of(cls, run: Sequence[Any]) -> "_Point":
        messages = [party.statistics.messages for party in run]
        sent = sum(party.statistics.sent_bytes for party in run)
        return cls(max(party.wall_s for party in run), sent, sum(messages), min(messages), sum(party.cpu_s for party in run))

    def values(self) -> tuple[float, ...]:
        return self.time_s, self.bytes, self.messages, self.round_trips


RENEWAL_BYTES = 100_000
"""A run that sends so much more than the same program's leanest one has renewed the stock of correlated randomness."""


def _typical(points: Sequence[_Point]) -> PartCosts:
    """The medians of the runs that renewed nothing."""
    lean = [point for point in points if not _renews(point, points)]
    return PartCosts(
        **{
            name: float(statistics.median(getattr(point, name) for point in lean))
            for name in ("time_s", "bytes", "messages", "round_trips")
        }
    )


def _renews(point: _Point, points: Sequence[_Point]) -> bool:
    return point.bytes - min(other.bytes for other in points) > RENEWAL_BYTES


def _fit(counted: Sequence[tuple[int, int, list[_Point]]]) -> ReLUCosts:
    """From measured (kept, positions) to costs per layer, ReLU and position, by least squares; what renewals took beyond that is
    shared out over all ReLUs.
    """
    typical = [_typical(points) for _, _, points in counted]
    masked = np.array([size * (kept < size) for kept, size, _ in counted], dtype=float)
    kept = np.array([kept for kept, _, _ in counted], dtype=float)
    times = np.array([costs.time_s for costs in typical])
    weight = 1 / np.sqrt(np.maximum(times, 1e-6))  # small layers count too
    design = np.stack([np.ones_like(kept), kept, masked], axis=1)
    layer_s, relu_s, position_s = np.linalg.lstsq(design * weight[:, None], times * weight, rcond=None)[0]

    def line(name: str) -> tuple[float, float]:
        values = np.array([getattr(costs, name) for costs in typical])
        slope, start = np.polyfit(kept, values, 1)
        return float(start), float(slope)

    (layer_b, relu_b), (layer_m, relu_m), (layer_r, relu_r) = line("bytes"), line("messages"), line("round_trips")
    all_relus = sum(kept * len(points) for kept, _, points in counted)
    extra = np.zeros(4)
    for costs, (_, _, points) in zip(typical, counted, strict=True):
        base = np.array([costs.time_s, costs.bytes, costs.messages, costs.round_trips])
        extra += sum((np.array(point.values()) - base for point in points if _renews(point, points)), np.zeros(4))
    extra = np.maximum(extra, 0) / all_relus
    return ReLUCosts(
        layer=PartCosts(time_s=float(layer_s), bytes=layer_b, messages=layer_m, round_trips=layer_r),
        relu=PartCosts(time_s=float(relu_s), bytes=relu_b, messages=relu_m, round_trips=relu_r),
        position_s=float(position_s),
        renewal=PartCosts(time_s=float(extra[0]), bytes=float(extra[1]), messages=float(extra[2]), round_trips=float(extra[3])),
    )
