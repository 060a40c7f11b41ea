"""A price on layers in the choice of ReLUs: where a layer is worth little, all of it goes.

A ReLU that goes saves one ReLU wherever it is. But with the last ones of a block's inner layer a convolution can go too, since
the block can be gated; and with the last ones of any layer its round trips go, which are most of what private inference takes
over a wide-area network. A choice that looks at ReLUs one by one can't see that, and leaves a few in many layers. Ours; the paper
and SENet share the budget out first and gate what it leaves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GOES_FIRST = -1.0
"""Below every score."""


def priced(
    scores: Sequence[Tensor],
    sizes: Sequence[int],
    inner: Sequence[bool],
    count: int,
    *,
    depth_price: float = 0.0,
    layer_price: float = 0.0,
) -> list[Tensor]:
    """Scores for a choice of the highest ones, in which the units of layers that are not worth their price are lowest.

    What a layer is worth is the sum of (score − τ) over its units above τ, the lowest score that is kept: what would be lost by
    leaving it out and keeping the next best elsewhere. A layer goes if it is worth less than so many times what the layers that
    have that price are worth on average; by the price on all layers, the least worth first, as long as the others can hold the
    count.

    Args:
        scores: per layer, at least 0.
        sizes: ReLUs that a unit of the layer stands for.
        inner: which layers lie inside blocks that can be gated.
        count: ReLUs that are to be kept.
        depth_price: of inner layers, at least 0.
        layer_price: of any layer, at least 0.

    Returns:
        Per layer, the scores, or `GOES_FIRST` throughout.
    """
    if not depth_price and not layer_price:
        return list(scores)
    lowest = _lowest_kept(scores, sizes, count)
    worth = [float((part - lowest).clamp_min(0.0).sum()) * size for part, size in zip(scores, sizes, strict=True)]
    inside = [index for index, is_inner in enumerate(inner) if is_inner]
    least_inner = depth_price * (sum(worth[index] for index in inside) / max(len(inside), 1))
    goes = {index for index in inside if worth[index] < least_inner}
    least = layer_price * (sum(worth) / len(worth))
    relus = [part.numel() * size for part, size in zip(scores, sizes, strict=True)]
    rest = sum(relus) - sum(relus[index] for index in goes)
    for index in sorted(set(range(len(scores))) - goes, key=worth.__getitem__):
        if worth[index] < least and rest - relus[index] >= count:
            goes.add(index)
            rest -= relus[index]
    return [torch.full_like(part, GOES_FIRST) if index in goes else part for index, part in enumerate(scores)]


def _lowest_kept(scores: Sequence[Tensor], sizes: Sequence[int], count: int) -> float:
    flat = torch.cat([part.reshape(-1) for part in scores]).cpu()
    each = torch.cat([torch.full((part.numel(),), size) for part, size in zip(scores, sizes, strict=True)])
    order = torch.sort(flat, descending=True, stable=True).indices
    kept = int((each[order].cumsum(0) <= count).sum())
    return float(flat[order[max(kept, 1) - 1]])
