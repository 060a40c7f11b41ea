"""Starting a shallow branch as the best linear stand-in for the two convolutions that it replaces (ours).

Where a block keeps few inner ReLUs its main branch is almost linear, so that one convolution can say nearly the same: its weights
are the ridge regression of the main branch's output on the patches of the block's input, in closed form, one solve per block.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysp.methods.full_precision import full_precision
from raysp.models.blocks import GatedBlock
from raysp.models.network import Network

RIDGE = 1e-4
"""Weight of the penalty on the weights, as a share of the patches' mean variance."""

CHUNK = 65_536
"""Patches that are multiplied at once."""


@dataclass
class _Sums:
    """What a regression of y on x needs to know of its rows."""

    rows: int = 0
    x: Tensor | float = 0.0
    """Σ x, (d,)."""
    y: Tensor | float = 0.0
    """Σ y, (c,)."""
    xx: Tensor | float = 0.0
    """Σ x xᵀ, (d, d)."""
    xy: Tensor | float = 0.0
    """Σ x yᵀ, (d, c)."""
    yy: Tensor | float = 0.0
    """Σ y², (c,)."""
    block_input: Tensor | None = field(default=None, repr=False)


@full_precision()
@torch.no_grad()
def fit_shallow_branches(model: Network, images: Iterable[Tensor]) -> dict[str, float]:
    """Set every shallow branch to the least-squares fit of its main branch, in the network as it is with all gates at 0.

    The convolution takes the fit's weights; the batch norm is set so that the branch computes the fit, both in evaluation mode
    and in training mode on like data. The model is left in evaluation mode.

    Args:
        model: with shallow branches; its other weights stay as they are.
        images: batches of normalised images (n, c, h, w) on the model's device, some thousand in all.

    Returns:
        R² of each fit over all channels, by the block's name.
    """
    blocks = {name: block for name, block in model.gated_blocks() if block.shallow is not None}
    sums = {name: _Sums() for name in blocks}
    hooks = [hook for name, block in blocks.items() for hook in _collect(block, sums[name])]
    model.eval()
    model.set_gates(0.0)
    for batch in images:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: _solve(block, sums.pop(name)) for name, block in blocks.items()}  # a block's matrix is large


def _collect(block: GatedBlock, sums: _Sums) -> list[Any]:
    first, last = block.main_ends()
    assert block.shallow is not None
    conv = block.shallow[0]
    assert isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str)
    size, padding, stride = conv.kernel_size, conv.padding, conv.stride

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums.block_input = inputs[0]

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert sums.block_input is not None
        per_image = output.shape[2] * output.shape[3]
        step = max(1, CHUNK // per_image)
        for x_nchw, y_nchw in zip(torch.split(sums.block_input, step), torch.split(output, step), strict=True):
            x = F.unfold(x_nchw, size, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)
            y = y_nchw.flatten(2).transpose(1, 2).flatten(0, 1)
            sums.rows += len(x)
            sums.x = sums.x + x.double().sum(dim=0)
            sums.y = sums.y + y.double().sum(dim=0)
            sums.xx = sums.xx + (x.T @ x).double()
            sums.xy = sums.xy + (x.T @ y).double()
            sums.yy = sums.yy + y.double().square().sum(dim=0)
        sums.block_input = None

    return [first.register_forward_pre_hook(keep), last.register_forward_hook(add)]


def _solve(block: GatedBlock, sums: _Sums) -> float:
    """Write a block's fit into its shallow branch; return its R²."""
    if not sums.rows:
        raise ValueError("no images to fit the shallow branches to; expected some thousand")
    assert block.shallow is not None
    conv, norm = block.shallow[0], block.shallow[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    x, y, xx, xy, yy = (torch.as_tensor(v) for v in (sums.x, sums.y, sums.xx, sums.xy, sums.yy))
    mean_x, mean_y = x / sums.rows, y / sums.rows
    cov_xx = xx / sums.rows - torch.outer(mean_x, mean_x)
    cov_xy = xy / sums.rows - torch.outer(mean_x, mean_y)
    var_y = yy / sums.rows - mean_y.square()
    ridge = RIDGE * cov_xx.diagonal().mean().clamp_min(1e-12)
    cov_xx.diagonal().add_(ridge)
    weights_dc = torch.zeros_like(cov_xy)
    for rows, outs in zip(_shares(len(cov_xx), conv.groups), _shares(cov_xy.shape[1], conv.groups), strict=True):
        weights_dc[rows, outs] = torch.linalg.solve(cov_xx[rows, rows], cov_xy[rows, outs])
        conv.weight[outs].copy_(weights_dc[rows, outs].T.reshape(conv.weight[outs].shape))
    cov_xx.diagonal().sub_(ridge)
    mean_fit = mean_x @ weights_dc
    var_fit = (weights_dc * (cov_xx @ weights_dc)).sum(dim=0).clamp_min(0.0)
    residual = var_y - 2.0 * (weights_dc * cov_xy).sum(dim=0) + var_fit
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean_fit)
    norm.running_var.copy_(var_fit)
    norm.weight.copy_((var_fit + norm.eps).sqrt())
    norm.bias.copy_(mean_y)
    return float(1.0 - residual.sum() / var_y.sum().clamp_min(1e-12))


def _shares(whole: int, groups: int) -> list[slice]:
    """What belongs to each group of a convolution."""
    return [slice(start, start + whole // groups) for start in range(0, whole, whole // groups)]
