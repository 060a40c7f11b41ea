"""What a network takes with some of its blocks gated, for every choice of blocks, before any of them is gated.

Owns the list of a network's parts with blocks gated, put together from one listing for each block. Contract: what is told for a
choice of blocks and masks is what `raysp.latency.prediction` predicts for the final exit of the network that comes of it.
"""

import copy
from collections import Counter
from collections.abc import Collection, Mapping

import torch

from raysp.latency.known import Calibrations
from raysp.latency.prediction import parts_of
from raysp.latency.tables import NOTHING, PartCosts
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

    def costs(self, gated: Collection[str], kept: Mapping[str, int]) -> PartCosts:
        """What the network takes.

        Args:
            gated: blocks, by name.
            kept: ReLUs of each ReLU layer, by name; those inside gated blocks count for nothing.
        """
        shapes = Counter(self._shapes)
        for name in gated:
            shapes.update(self._more[name])
        told = self._calibrations.told(list(shapes.elements()))
        gone = {self._inner[name] for name in gated}
        layers = [(kept[layer], positions) for layer, positions in self._relus.items() if layer not in gone and kept[layer]]
        relus = told.relu.of(
            layers=len(layers),
            kept=sum(count for count, _ in layers),
            masked_positions=sum(positions for count, positions in layers if count < positions),
        )
        return sum((told.costs[shape].times(count) for shape, count in sorted((+shapes).items())), NOTHING) + relus
