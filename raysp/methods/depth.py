"""A price on depth in the choice of ReLUs: where a block's inner layer is worth little, all of it goes, so that the block can be
gated.

A ReLU that goes saves one ReLU wherever it is; but with the last ones of a block's inner layer a convolution can go too. A choice
that looks at ReLUs one by one can't see that, and leaves a few in many layers. Ours; the paper and SENet share the budget out
first and gate what it leaves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GOES_FIRST = -1.0
"""Below every score."""


def priced(scores: Sequence[Tensor], sizes: Sequence[int], inner: Sequence[bool], count: int, price: float) -> list[Tensor]:
    """Scores for a choice of the highest ones, in which the units of inner layers that are not worth their depth are lowest.

    What the inner layer of a block is worth is the sum of (score − τ) over its units above τ, the lowest score that is kept: what
    would be lost by leaving it out and keeping the next best elsewhere.

    Args:
        scores: per layer, at least 0.
        sizes: ReLUs that a unit of the layer stands for.
        inner: which layers lie inside a block that can be gated.
        count: ReLUs that are to be kept.
        price: a layer goes if it is worth less than so many times what inner layers are worth on average; at least 0.

    Returns:
        Per layer, the scores, or `GOES_FIRST` throughout.
    """
    if not price or not any(inner):
        return list(scores)
    lowest = _lowest_kept(scores, sizes, count)
    worth = [float((part - lowest).clamp_min(0.0).sum()) * size for part, size in zip(scores, sizes, strict=True)]
    average = sum(w for w, is_inner in zip(worth, inner, strict=True) if is_inner) / sum(inner)
    return [
        torch.full_like(part, GOES_FIRST) if is_inner and w < price * average else part
        for part, w, is_inner in zip(scores, worth, inner, strict=True)
    ]


def _lowest_kept(scores: Sequence[Tensor], sizes: Sequence[int], count: int) -> float:
    flat = torch.cat([part.reshape(-1) for part in scores]).cpu()
    each = torch.cat([torch.full((part.numel(),), size) for part, size in zip(scores, sizes, strict=True)])
    order = torch.sort(flat, descending=True, stable=True).indices
    kept = int((each[order].cumsum(0) <= count).sum())
    return float(flat[order[max(kept, 1) - 1]])
