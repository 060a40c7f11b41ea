"""Sharing a ReLU budget out over layers.

Owns the water-filling rule and the reading of a budget given as units or as a share. Exact integers throughout.
"""

import math
from collections.abc import Sequence
from fractions import Fraction


def allocate_budget(sensitivity: Sequence[float], sizes: Sequence[int], budget: int) -> list[int]:
    """Share a budget out by water-filling: r_l = min(size_l, c·η_α^l), with c such that the counts sum to the budget.

    What overflows a full layer goes to the others in proportion to their sensitivity; fractions are settled by largest
    remainder, earlier layers first among equals. Layers of sensitivity 0 receive units only when all others are full.
    (SENet, arXiv 2301.09254, stage 1; equation 1 of "Making Models Shallow Again" gives η_α.)

    Args:
        sensitivity: η_α per layer, finite and at least 0.
        sizes: ReLU positions per layer, at least 0.
        budget: ReLUs to keep in all, from 0 to the sum of the sizes.

    Returns:
        ReLUs to keep per layer; they sum to the budget exactly and never exceed a layer's size.

    Raises:
        ValueError: lengths differ, or a value is out of its range.
    """
    if len(sensitivity) != len(sizes):
        raise ValueError(f"{len(sensitivity)} sensitivities for {len(sizes)} layers; expected as many as layers")
    if any(not math.isfinite(e) or e < 0 for e in sensitivity):
        raise ValueError(f"sensitivities {list(sensitivity)}; expected finite numbers of at least 0")
    if any(size < 0 for size in sizes):
        raise ValueError(f"layer sizes {list(sizes)}; expected at least 0")
    if not 0 <= budget <= sum(sizes):
        raise ValueError(f"budget {budget}; expected 0 to {sum(sizes)}, the network's ReLUs")
    weights = _as_integers(sensitivity)
    counts = [0] * len(sizes)
    sensitive = [l for l, weight in enumerate(weights) if weight]
    _fill(sensitive, weights, sizes, min(budget, sum(sizes[l] for l in sensitive)), counts)
    _fill([l for l, weight in enumerate(weights) if not weight], [1] * len(sizes), sizes, budget - sum(counts), counts)
    return counts


def _as_integers(values: Sequence[float]) -> list[int]:
    """Scale floats by a common power of two so that all are whole: what follows is exact."""
    ratios = [float(value).as_integer_ratio() for value in values]
    scale = max((denominator for _, denominator in ratios), default=1)
    return [numerator * (scale // denominator) for numerator, denominator in ratios]


def _fill(layers: Sequence[int], weights: Sequence[int], sizes: Sequence[int], amount: int, counts: list[int]) -> None:
    """Pour `amount` (at most what fits) into layers of positive integer weights; writes their counts."""
    total = sum(weights[l] for l in layers)
    by_level = sorted(layers, key=lambda l: (Fraction(sizes[l], weights[l]), l))  # whose layer fills first as c rises
    for place, l in enumerate(by_level):
        if amount * weights[l] < sizes[l] * total:  # c = amount/total leaves this layer, and all later ones, below their size
            ideal = {m: divmod(amount * weights[m], total) for m in by_level[place:]}
            leftover = amount - sum(whole for whole, _ in ideal.values())
            largest_remainders = set(sorted(ideal, key=lambda m: (-ideal[m][1], m))[:leftover])
            for m, (whole, _) in ideal.items():
                counts[m] = whole + (m in largest_remainders)
            return
        counts[l] = sizes[l]
        amount -= sizes[l]
        total -= weights[l]


def whole_channels(counts: Sequence[int], channel_sizes: Sequence[int]) -> list[int]:
    """Turn counts per layer into whole channels: each rounded down, then up again where it lost most, while the total allows.

    Where that leaves nothing at all, the largest count that a channel of its layer fits beside takes one.

    Args:
        counts: ReLUs to keep per layer.
        channel_sizes: positions of one channel per layer, at least 1.

    Returns:
        ReLUs to keep per layer, multiples of the channel's size, each within one channel of its count and never more in all.
    """
    kept = [count // size * size for count, size in zip(counts, channel_sizes, strict=True)]
    left = sum(counts) - sum(kept)
    for l in sorted(range(len(counts)), key=lambda l: (Fraction(kept[l] - counts[l], channel_sizes[l]), l)):
        if kept[l] < counts[l] and channel_sizes[l] <= left:
            kept[l] += channel_sizes[l]
            left -= channel_sizes[l]
    if not any(kept):
        fitting = [l for l in range(len(counts)) if 0 < channel_sizes[l] <= left]
        if fitting:
            l = max(fitting, key=lambda l: (counts[l], -channel_sizes[l], -l))
            kept[l] = channel_sizes[l]
    return kept


def resolve_budget(given: float, num_relus: int) -> int:
    """Turn a budget as a user gives it into ReLU units.

    Args:
        given: ReLU units from 2 to `num_relus`, whole, or a share of them strictly between 0 and 1.
        num_relus: ReLUs of the whole network.

    Raises:
        ValueError: out of range, not whole, or a share that rounds to no ReLU at all.
    """
    if not math.isfinite(given) or given <= 0:
        raise ValueError(f"budget {given:g}; expected ReLU units from 2 to {num_relus}, or a share between 0 and 1")
    if given == 1:
        raise ValueError(f"budget 1 could be one ReLU or all of them; give {num_relus} for all, or a share below 1")
    if given < 1:
        units = round(given * num_relus)
        if units < 1:
            raise ValueError(
                f"budget {given:g} is a share of less than one of the network's {num_relus} ReLUs; give a larger one"
            )
        return units
    if given != int(given):
        raise ValueError(f"budget {given:g}; expected a whole number of ReLUs, or a share between 0 and 1")
    if given > num_relus:
        raise ValueError(f"budget {int(given)} is above the network's {num_relus} ReLUs; expected at most that")
    return int(given)
