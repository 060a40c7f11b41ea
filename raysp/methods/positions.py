"""From scores and counts to masks, by the pixel or by the channel.

Owns the exactness of a mask's count. Contract: a pixel mask holds exactly its count of ones; a channel mask as many whole
channels as fit into it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raysp.methods.choices import Granularity


def top_positions(score: Tensor, count: int) -> Tensor:
    """A mask with exactly `count` ones at the highest scores; among equals the earlier position. Bool, the score's shape."""
    order = torch.sort(score.reshape(-1), descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:count]] = True
    return mask.view_as(score)


def layer_mask(score_chw: Tensor, count: int, granularity: Granularity) -> Tensor:
    """One layer's mask: the `count` positions with the highest scores, or the channels with the highest sums that fit into it.

    Args:
        score_chw: one layer's scores, (c, h, w).
        count: ReLUs to keep, 0 to c·h·w.
        granularity: "pixel" or "channel".

    Returns:
        Bool (c, h, w).
    """
    if granularity == "pixel":
        return top_positions(score_chw, count)
    channels = top_positions(score_chw.sum(dim=(1, 2)), count // score_chw[0].numel())
    return channels.view(-1, 1, 1).expand(score_chw.shape).contiguous()


def network_masks(scores: Sequence[Tensor], shapes: Sequence[tuple[int, int, int]], budget: int) -> list[Tensor]:
    """Every layer's mask at once: the highest scores of the whole network, whatever layer they are in.

    Args:
        scores: per layer (c, h, w), or (c, 1, 1) for whole channels.
        shapes: per layer (c, h, w).
        budget: ReLUs to keep over the network. Channels are taken from the highest score down, each if it still fits.

    Returns:
        Bool (c, h, w) per layer. They hold exactly the budget, or less where no channel that is left would fit.
    """
    flat = torch.cat([score.detach().reshape(-1) for score in scores])
    units = torch.cat([torch.full((s.numel(),), _volume(shape) // s.numel()) for s, shape in zip(scores, shapes, strict=True)])
    kept = torch.zeros(flat.numel(), dtype=torch.bool)
    if bool((units == 1).all()):
        kept = top_positions(flat.cpu(), budget)
    else:
        left = budget
        for place in torch.sort(flat.cpu(), descending=True, stable=True).indices.tolist():
            if int(units[place]) <= left:
                kept[place] = True
                left -= int(units[place])
    parts = torch.split(kept, [score.numel() for score in scores])
    return [
        part.view(score.shape).expand(shape).contiguous().to(score.device)
        for part, score, shape in zip(parts, scores, shapes, strict=True)
    ]


def _volume(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]
