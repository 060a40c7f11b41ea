"""Measuring the parts of a network family once, from which the cost of any of its members follows.

Owns what is measured, and how often. Needs the extra `pi`. What comes out, and its file, is `raysp.latency.tables`'.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raysp.latency.graph import Graph, Operation, graph_of
from raysp.latency.shapes import shape_of
from raysp.latency.tables import COSTS, Calibration, PartCosts, ReLUCosts
from raysp.models import build_model
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.exits import AC_HEADS, FINAL, exit_name
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU
from raysp.pi import machine
from raysp.pi.session import Session, session

SHARES_KEPT = (1.0, 0.5, 0.1)
"""Of a map's positions, for which its ReLU is measured."""


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


def distinct_parts(networks: Iterable[Network]) -> tuple[dict[str, tuple[Operation, bool]], dict[tuple[int, ...], Operation]]:
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


def alone(operation: Operation) -> Graph:
    """A graph of this operation and nothing else."""
    only = Operation(
        name=operation.name,
        inputs=("x",),
        module=operation.module,
        layer=operation.layer,
        shape=operation.shape,
        in_shape=operation.in_shape,
    )
    return Graph(input_name="x", input_shape=operation.in_shape, operations=(only,))


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
        protocol: see `raysp.latency.protocols`.
        described: what they are, for the file.
        runs: of each part, all warm.
        limit_s: seconds after which it is given up.
        tell: told what is being measured.
    """
    random = torch.Generator().manual_seed(0)
    own_s: list[float] = []

    def measure(parties: Session, graph: Graph, *, shared: bool) -> "list[_Point]":
        image = torch.randn(graph.input_shape, generator=random)
        parties.load(parties.engine.compile(graph, image, shared=shared))
        points = [_Point.of(parties.run()[0]) for _ in range(runs)]
        own_s.extend(point.cpu_s for point in points)
        return points

    layers, relus = distinct_parts(networks)
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
        engine=parties.engine.packages[0],
        versions=machine.versions(parties.engine.packages),
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
    return PartCosts(**{name: float(statistics.median(getattr(point, name) for point in lean)) for name in COSTS})


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
