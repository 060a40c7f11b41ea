"""Predictions for finished stages, from their records alone: no weights are read, nothing is computed.

Owns what of a record says which network it is about. Contract: what is predicted for a record is what `raysp.latency.prediction`
predicts for its network; whatever the number of records that share it, a built-in network's parts are listed once in a process,
another's once for each call.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from raysp.latency.known import Calibrations
from raysp.latency.prediction import Part, parts_of
from raysp.latency.tables import NOTHING, PartCosts, ReLUCosts
from raysp.models import build_model
from raysp.models.network import Network
from raysp.store.reasons import why

MOST = 2**40
"""More positions of one layer are taken for a damaged record."""

Record = Mapping[str, Any]
Outline = Callable[[Record], Network]
"""The network of a stage whose record names none of the built-in ones, as deployed, without weights. Raises ValueError where
nothing says what it is."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a record says of its network, masks and weights left out: records that agree in it share their layers."""

    model: str
    """A built-in network's name, or the digest of another's description."""
    is_builtin: bool
    num_classes: int
    image_size: int
    in_channels: int
    width: int
    gated: tuple[str, ...]
    """Blocks that have become one convolution."""
    kernel_size: int
    """Of these."""
    ac_after: tuple[int, ...]
    ac_head: str


def structure_of(record: Record) -> Structure:
    """Read a record of a trained network.

    Raises:
        ValueError: it says nothing of its network.
    """
    try:
        config = record["config"]
        experiment = config["experiment"]
        data, own = experiment["data"], experiment.get("network")
        gated, after = record["metrics"].get("gated_blocks", []), config.get("ac_after", [])
        found = Structure(
            model=own["sha256"] if own else experiment["model"],
            is_builtin=own is None,
            num_classes=data["num_classes"],
            image_size=data["image_size"],
            in_channels=data.get("channels", 3),
            width=experiment["width"],
            gated=tuple(gated),
            kernel_size=config.get("kernel_size", 3) if gated else 3,
            ac_after=tuple(after),
            ac_head=config.get("ac_head", "pool") if after else "pool",
        )
        hash(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its configuration says nothing of its network ({why(error)})") from None
    return found


@functools.lru_cache(maxsize=64)
def outline_of(structure: Structure) -> Network:
    """A built-in network as its record says, on "meta"; others hold it, too, so leave it as it is.

    Raises:
        ValueError: there is no such network, block, kernel, stage or head.
    """
    plain = _plain(structure.model, structure.num_classes, structure.image_size, structure.in_channels, structure.width)
    network = copy.deepcopy(plain)
    with torch.device("meta"):
        blocks = dict(network.gated_blocks())
        for name in structure.gated:
            if name not in blocks:
                raise ValueError(f"a shallow block {name!r:.80}; {structure.model} has {', '.join(blocks)}")
            blocks[name].add_shallow_branch(structure.kernel_size)
        for stage in structure.ac_after:
            network.add_exit(stage, structure.ac_head)
    return network


@functools.lru_cache(maxsize=4096)
def _parts_of(structure: Structure, exit: str) -> tuple[Part, ...]:  # noqa: A002 (the field's word)
    """A built-in network's parts: searches and races ask record by record."""
    return parts_of(outline_of(structure), exit)


@functools.lru_cache(maxsize=64)
def _plain(model: str, num_classes: int, image_size: int, in_channels: int, width: int) -> Network:
    with torch.device("meta"):
        return build_model(model, num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What records of one structure share, of one exit."""

    costs: tuple[tuple[str, PartCosts | None], ...]
    """Each layer and what it takes, in forward order; None of a ReLU layer, which takes what a record's masks leave it."""
    relu: ReLUCosts
    calibration: str
    """The calibration that has most of them."""
    fitted: int
    """Layers that no calibration has."""

    @functools.cached_property
    def total(self) -> PartCosts:
        """Of all but the ReLUs."""
        return sum((costs for _, costs in self.costs if costs), NOTHING)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one exit of a record's network takes."""

    costs: PartCosts
    layers: Layers
    """Shared by rows of one structure."""


@dataclass(kw_only=True)
class Predictions:
    """What could be said of some records, and what not."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    """By key and exit."""
    fitted: set[str] = field(default_factory=set)
    """Shapes of layers that were fitted."""
    untold: dict[str, str] = field(default_factory=dict)
    """Shapes of layers that nobody can tell, and networks that can't be rebuilt, each with why."""
    has_measured: bool = False
    """Whether a convolution of one of the networks was measured."""


def predict_records(records: Iterable[Record], calibrations: Calibrations, outline: Outline) -> Predictions:
    """Predict every exit of every record that has rows, and costs by layer.

    Args:
        records: of finished stages. Those without costs by layer, of before these were kept, are passed over.
        calibrations: what is known.
        outline: how networks are found that aren't built in.
    """
    found = Predictions()
    networks: dict[Structure, Network] = {}
    known: dict[tuple[Structure, str], Layers | None] = {}
    for record in records:
        costs = record["metrics"].get("costs")
        if not record["rows"] or not isinstance(costs, dict):
            continue
        try:
            structure = structure_of(record)
        except ValueError as error:
            found.untold.setdefault(f"{record['stage']} {record['key'][:12]}", str(error))
            continue
        for row in record["rows"]:
            name = row.get("exit")
            if not isinstance(name, str) or not isinstance(costs.get(name), list):
                continue
            if (structure, name) not in known:
                known[structure, name] = _known(structure, name, record, networks, calibrations, outline, found)
            if (layers := known[structure, name]) and (counted := _counted(costs[name])):
                found.rows[record["key"], name] = Row(costs=layers.total + layers.relu.of(**counted), layers=layers)
    return found


def _known(
    structure: Structure,
    exit: str,  # noqa: A002 (the field's word)
    record: Record,
    networks: dict[Structure, Network],
    calibrations: Calibrations,
    outline: Outline,
    found: Predictions,
) -> Layers | None:
    """What is known of a structure; None, with why in `found`, where it can't be told."""
    said = structure.model if structure.is_builtin else str(record["rows"][0].get("model", structure.model))
    try:
        if structure.is_builtin:
            parts = _parts_of(structure, exit)
        else:
            if structure not in networks:
                networks[structure] = outline(record)
            parts = parts_of(networks[structure], exit)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, OSError) as error:
        found.untold.setdefault(said, str(error).splitlines()[0][:300])
        return None
    shapes = [part.shape for part in parts if part.shape]
    told = calibrations.told(shapes)
    found.has_measured |= calibrations.has_any(shapes)
    if told.open:
        found.untold.update(dict.fromkeys(sorted(told.open), "no calibration has it, and too few like it were measured"))
        return None
    found.fitted |= told.fitted
    return Layers(
        costs=tuple((part.layer, told.costs[part.shape] if part.shape else None) for part in parts),
        relu=told.relu,
        calibration=told.calibration,
        fitted=sum(shape in told.fitted for shape in shapes),
    )


def _counted(layers: Iterable[Any]) -> dict[str, int] | None:
    """A record's ReLUs, as `ReLUCosts.of` wants them; None where they aren't told, or can't be."""
    try:
        relus = [(layer["relus"], layer["relu_positions"]) for layer in layers if layer["relus"]]
    except (KeyError, TypeError):
        return None
    if not all(type(kept) is type(positions) is int and 0 < kept <= positions <= MOST for kept, positions in relus):
        return None
    return {
        "layers": len(relus),
        "kept": sum(kept for kept, _ in relus),
        "masked_positions": sum(positions for kept, positions in relus if kept < positions),
    }
