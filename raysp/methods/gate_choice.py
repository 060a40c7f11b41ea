"""What each block would lose if it were gated, measured without training (ours).

One block after the other gives way to its least-squares shallow branch, alone; what that changes is how far the network's own
predictions move. On the masks that were looked at it ranks blocks as their loss after fine-tuning does, which the share of ReLUs
that a block keeps (d_th, the paper's footnote 1) doesn't: a block that keeps few may be the one that can't be spared.

Owns the measurement. Refuses to choose blocks by it (`raysp.stages.gates`).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from raysp.methods.least_squares import fit_shallow_branches
from raysp.models.exits import FINAL
from raysp.models.network import Network

MOST = 1e6
"""Nats; what a block loses whose shallow branch makes the predictions infinite, or no numbers."""


@dataclass(frozen=True, kw_only=True)
class GateLoss:
    """What one block's gate would cost."""

    block: str
    """The block's name."""
    divergence: float
    """KL(p ‖ q) in nats, the mean over images: p the network's class probabilities as it is, q with this block's gate at 1; at
    least 0, at most `MOST`."""
    fit_r2: float
    """Share of the main branch's variance that the shallow branch explains."""


@torch.no_grad()
def measure_gates(
    student: Network, fit_on: Iterable[Tensor], images: Callable[[], Iterable[Tensor]], *, kernel_size: int
) -> list[GateLoss]:
    """Measure what gating each block, alone, does to a network's predictions.

    Args:
        student: with its mask, and without shallow branches; it gets one for every block, and is left in evaluation mode.
        fit_on: batches of normalised images (n, c, h, w) on the student's device, to which the branches are fitted.
        images: gives batches of other images, the same each time, on which predictions are compared.
        kernel_size: of the shallow branches.

    Returns:
        One per block, in forward order.
    """
    blocks = student.gated_blocks()
    for _, block in blocks:
        block.add_shallow_branch(kernel_size)
    student.to(next(student.parameters()).device)  # branches are made on the CPU
    fits = fit_shallow_branches(student, fit_on)
    losses = []
    as_it_is = _log_probabilities(student, images)
    for name, block in blocks:
        block.gate = 1.0
        gated = _log_probabilities(student, images)
        block.gate = 0.0
        divergence = float(F.kl_div(gated, as_it_is, log_target=True, reduction="batchmean"))
        if not math.isfinite(divergence):  # the block can't be spared
            divergence = MOST
        losses.append(GateLoss(block=name, divergence=min(max(0.0, divergence), MOST), fit_r2=fits[name]))
    return losses


def _log_probabilities(student: Network, images: Callable[[], Iterable[Tensor]]) -> Tensor:
    """(n, classes), in float64, where small differences are left."""
    return torch.cat([student(batch).logits[FINAL].double().log_softmax(dim=1) for batch in images()])
