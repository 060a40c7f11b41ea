"""The order in which ReLUs can go: one number per position, from which the mask of every budget follows.

Owns what an order is and how a mask is read from it. Refuses to find one (`raysp.methods.walk`). Contract: masks of one ranking
are nested by the pixel, the smaller budget's inside the larger's.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from raysp.methods.positions import network_masks

PREFIX = "rank."
"""Of a ranking's tensors in a weights file, before the layer's name."""
LAST = torch.iinfo(torch.int32).max
"""A rank behind all others."""


def rank_units(left: Sequence[Tensor], score: Sequence[Tensor]) -> list[Tensor]:
    """Rank what a mask keeps or drops as one, over the whole network: 0 is the last that should go.

    Args:
        left: per layer, int: the round in which each left for the last time, from 1; 0 for those that never left.
        score: per layer, of the same shapes: what each was worth in that round, or is worth now where it never left.

    Returns:
        int32 per layer, of the same shapes; together the numbers from 0 to one less than there are units.
    """
    when = torch.cat([part.reshape(-1) for part in left]).cpu()
    worth = torch.cat([part.reshape(-1) for part in score]).cpu()
    by_worth = torch.sort(worth, descending=True, stable=True).indices
    never = when == 0
    late = torch.where(never, int(when.max()) + 1, when)[by_worth]
    order = by_worth[torch.sort(late, descending=True, stable=True).indices]
    ranks = torch.empty(len(order), dtype=torch.int32)
    ranks[order] = torch.arange(len(order), dtype=torch.int32)
    parts = torch.split(ranks, [part.numel() for part in left])
    return [part.view(like.shape) for part, like in zip(parts, left, strict=True)]


def ranked_masks(ranks: Sequence[Tensor], shapes: Sequence[tuple[int, int, int]], budget: int) -> list[Tensor]:
    """The mask of a budget.

    Args:
        ranks: per layer (c, h, w), or (c, 1, 1) for whole channels; see `rank_units`.
        shapes: per layer (c, h, w).
        budget: ReLUs to keep over the network.

    Returns:
        Bool (c, h, w) per layer; see `raysp.methods.positions.network_masks` for what they hold.
    """
    return network_masks([-part for part in ranks], shapes, budget)


class RankedLayers:
    """How a ranking shares budgets out over layers, without making the masks.

    Args:
        ranks: per layer; see `ranked_masks`.
        sizes: positions per layer.
    """

    def __init__(self, ranks: Sequence[Tensor], sizes: Sequence[int]) -> None:
        self._units = [size // part.numel() for part, size in zip(ranks, sizes, strict=True)]
        owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor([part.numel() for part in ranks]))
        self._owner = owner[torch.argsort(torch.cat([part.reshape(-1) for part in ranks]).cpu(), stable=True)]
        """The layer of each unit, from the last one that goes."""

    def counts(self, budget: int, without: Collection[int] = ()) -> list[int]:
        """ReLUs that each layer keeps in the mask of a budget.

        Args:
            budget: ReLUs to keep over the network.
            without: numbers of layers that get none.
        """
        spared = torch.ones(len(self._units), dtype=torch.bool)
        spared[list(without)] = False
        if all(unit == 1 for unit in self._units):
            return torch.bincount(self._first(budget, spared), minlength=len(self._units)).tolist()
        owner = self._owner[spared[self._owner]]
        counts = [0] * len(self._units)
        for layer in owner.tolist():
            if self._units[layer] <= budget:
                counts[layer] += self._units[layer]
                budget -= self._units[layer]
        return counts

    def _first(self, most: int, spared: Tensor) -> Tensor:
        """The layers of the units that stay, at most so many, in layers that are spared; looks at no more units than it must."""
        length = most
        while True:
            owner = self._owner[:length]
            found = owner[spared[owner]][:most]
            if len(found) == most or length >= len(self._owner):
                return found
            length *= 2


def ranks_in(tensors: Mapping[str, Tensor], layers: Sequence[str]) -> list[Tensor]:
    """The ranks of these layers, from a ranking's weights file."""
    return [tensors[PREFIX + name] for name in layers]
