"""What a network takes with some of its blocks gated, for every choice of blocks, before any of them is gated.

Owns the list of a network's parts with blocks gated, put together from one listing for each block, and what is known of its costs
before its masks are. Contract: what is told for a choice of blocks and masks is what `raysp.latency.prediction` predicts for the
final exit of the network that comes of it.
"""

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import product

import torch

from raysp.latency.known import Calibrations
from raysp.latency.prediction import parts_of
from raysp.latency.tables import COSTS, NOTHING, PartCosts, ReLUCosts
from raysp.models.exits import FINAL
from raysp.models.network import Network


class GatedCosts:
    """What a network takes with any of its blocks gated.

    Args:
        model: without shallow branches, all ReLUs kept; left as it is. Nothing is computed; weights may be on "meta".
        kernel_size: of shallow branches.
        calibrations: what is known of layers.

    Raises:
        ValueError: a layer can't be told, or can't be run.
    """

    def __init__(self, model: Network, *, kernel_size: int, calibrations: Calibrations) -> None:
        self._calibrations = calibrations
        parts = parts_of(model, FINAL)
        self._shapes = Counter(part.shape for part in parts if part.shape)
        self._relus = {part.layer: part.positions for part in parts if not part.shape}
        self._inner = {chain.name: chain.inner for chain in model.chains}
        self._more: dict[str, Counter[str]] = {}
        """What gating a block changes in the number of each shape; fewer are below 0."""
        for name in self._inner:
            with torch.device("meta"):
                gated = copy.deepcopy(model)
                dict(gated.gated_blocks())[name].add_shallow_branch(kernel_size)
            change = Counter(part.shape for part in parts_of(gated, FINAL) if part.shape)
            change.subtract(self._shapes)
            self._more[name] = change
        everywhere = [self._shapes, *self._more.values()]
        told = calibrations.told(sorted({shape for shapes in everywhere for shape in shapes}))
        if told.open:
            raise ValueError(
                f"no calibration has {', '.join(sorted(told.open)[:3])}, and too few like it were measured: the seconds of "
                f"{model.name} can't be predicted"
            )
        self._linear: dict[frozenset[str], tuple[PartCosts, ReLUCosts]] = {}
        self._bounds: dict[tuple[frozenset[str], tuple[int, int]], tuple[PartCosts, PartCosts]] = {}
        """Whatever the limit and the link are."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """That can be gated, in forward order."""
        return tuple(self._inner)

    def costs(self, gated: Collection[str], kept: Mapping[str, int]) -> PartCosts:
        """What the network takes.

        Args:
            gated: blocks, by name.
            kept: ReLUs of each ReLU layer, by name; those inside gated blocks count for nothing.
        """
        linear, relu = self._without_relus(gated)
        layers = [(kept[layer], positions) for layer, positions in self._left(gated).items() if kept[layer]]
        return linear + relu.of(
            layers=len(layers),
            kept=sum(count for count, _ in layers),
            masked_positions=sum(positions for count, positions in layers if count < positions),
        )

    def bounds(self, gated: Collection[str], relus: tuple[int, int]) -> tuple[PartCosts, PartCosts]:
        """What the network takes at least, and at most, whatever its masks.

        Args:
            gated: blocks, by name.
            relus: at least and at most so many are kept in the ReLU layers that are left, as far as these have room.
        """
        if (what := (frozenset(gated), relus)) in self._bounds:
            return self._bounds[what]
        linear, relu = self._without_relus(gated)
        sizes = sorted(self._left(gated).values(), reverse=True)
        room = sum(sizes)
        fewest, most = (min(count, room) for count in relus)
        held, layers = 0, 0
        while held < fewest:
            held, layers = held + sizes[layers], layers + 1
        # Every cost is linear in the three, so it is least and most where each of them is.
        ends = product((layers, min(len(sizes), most)), (fewest, most), (0, room))
        corners = [linear + relu.of(layers=some, kept=kept, masked_positions=masked) for some, kept, masked in ends]
        least, largest = (
            PartCosts(**{cost: of(getattr(corner, cost) for corner in corners) for cost in COSTS}) for of in (min, max)
        )
        self._bounds[what] = least, largest
        return least, largest

    def _left(self, gated: Collection[str]) -> dict[str, int]:
        """Positions of the ReLU layers that are left, by name."""
        gone = {self._inner[name] for name in gated}
        return {layer: positions for layer, positions in self._relus.items() if layer not in gone}

    def _without_relus(self, gated: Collection[str]) -> tuple[PartCosts, ReLUCosts]:
        """What all but the ReLUs takes, and what ReLUs cost beside that."""
        if (what := frozenset(gated)) not in self._linear:
            shapes = Counter(self._shapes)
            for name in gated:
                shapes.update(self._more[name])
            told = self._calibrations.told(list(shapes.elements()))
            costs = (told.costs[shape].times(count) for shape, count in sorted((+shapes).items()))
            self._linear[what] = sum(costs, NOTHING), told.relu
        return self._linear[what]
