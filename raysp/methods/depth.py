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


def priced(scores: Sequence[Tensor], sizes: Sequence[int], has_price: Sequence[bool], count: int, price: float) -> list[Tensor]:
    """Scores for a choice of the highest ones, in which the units of layers that are not worth their price are lowest.

    What a layer is worth is the sum of (score − τ) over its units above τ, the lowest score that is kept: what would be lost by
    leaving it out and keeping the next best elsewhere.

    Args:
        scores: per layer, at least 0.
        sizes: ReLUs that a unit of the layer stands for.
        has_price: which layers may go: those inside blocks that can be gated, or all.
        count: ReLUs that are to be kept.
        price: such a layer goes if it is worth less than so many times what these layers are worth on average; at least 0.

    Returns:
        Per layer, the scores, or `GOES_FIRST` throughout.
    """
    if not price or not any(has_price):
        return list(scores)
    lowest = _lowest_kept(scores, sizes, count)
    worth = [float((part - lowest).clamp_min(0.0).sum()) * size for part, size in zip(scores, sizes, strict=True)]
    average = sum(w for w, may_go in zip(worth, has_price, strict=True) if may_go) / sum(has_price)
    return [
        torch.full_like(part, GOES_FIRST) if may_go and w < price * average else part
        for part, w, may_go in zip(scores, worth, has_price, strict=True)
    ]


def _lowest_kept(scores: Sequence[Tensor], sizes: Sequence[int], count: int) -> float:
    flat = torch.cat([part.reshape(-1) for part in scores]).cpu()
    each = torch.cat([torch.full((part.numel(),), size) for part, size in zip(scores, sizes, strict=True)])
    order = torch.sort(flat, descending=True, stable=True).indices
    kept = int((each[order].cumsum(0) <= count).sum())
    return float(flat[order[max(kept, 1) - 1]])
