"""Batch norms' running statistics, measured anew where those that they have are of other maps."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure(model: nn.Module, norms: Iterable[nn.BatchNorm2d | nn.BatchNorm1d], images: Iterable[Tensor]) -> None:
    """Give batch norms the mean of all batches' statistics. Everything else of the model stays as it is; it is left in
    evaluation mode.

    Args:
        model: what the images pass through.
        norms: those of its batch norms that are measured. One that no image reaches, as in a branch whose gate is closed, keeps
            its own.
        images: batches (n, c, h, w) on the model's device, at least one.
    """
    model.eval()
    before = [(norm, norm.momentum, {name: t.clone() for name, t in norm.state_dict().items()}) for norm in norms]
    for norm, *_ in before:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        for batch in images:
            model(batch)
    finally:
        for norm, momentum, state in before:
            assert norm.num_batches_tracked is not None
            if not int(norm.num_batches_tracked):
                norm.load_state_dict(state)
            norm.momentum = momentum
            norm.eval()
