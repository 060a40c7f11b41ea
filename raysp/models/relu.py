"""The masked ReLU: ReLU where the mask is 1, identity where it is 0.

Owns the layer and its gradient. Refuses to decide which positions are kept (`raysp.stages.mask`) or how many
(`raysp.methods.budget`).
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _FlooredReLU(torch.autograd.Function):
    """max(x, floor) with floor 0 (ReLU) or -inf (identity): one pass, and nothing kept for backward but the output, which the
    next convolution keeps anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y = torch.maximum(x, floor, out=x if inplace else None)
        ctx.save_for_backward(y, floor)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        y, floor = ctx.saved_tensors
        # Above 0 where the gradient passes: y itself, or infinity. A scalar threshold is many times faster than a mask of bools.
        above = y - floor
        return torch.ops.aten.threshold_backward.grad_input(grads[0], above, 0, grad_input=above), None, None


class _Scored(torch.autograd.Function):
    """A ReLU's output y as it is; in backward the score of each position grows by Σ |g·min(x, 0)| over some images, with the
    gradient g at y, and min(x, 0) kept from before the ReLU.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, negative: Tensor, score: Tensor, images: slice) -> Tensor:
        ctx.save_for_backward(negative)
        ctx.score, ctx.images = score, images
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (negative,) = ctx.saved_tensors
        change = negative * grads[0][ctx.images]
        ctx.score.add_(torch.linalg.vector_norm(change, ord=1, dim=0, dtype=ctx.score.dtype))
        return grads[0], None, None, None


class MaskedReLU(nn.Module):
    """Ψ = M·relu(x) + (1 − M)·x for a mask M ∈ {0,1}^{c×h×w}, shared by all images.

    The gradient at a kept position with x = 0 is 0, as for `torch.relu`. A mask of ones costs what a plain ReLU costs, a mask of
    zeros nothing.

    Args:
        shape: (channels, height, width) of one image's map; (features, 1, 1) for vectors.
        inplace: overwrite the input, which must be no leaf then, nor a vector; a third faster.
    """

    mask: Tensor
    _floor: Tensor | None

    def __init__(self, shape: tuple[int, int, int], *, inplace: bool = False) -> None:
        super().__init__()
        self.shape, self.inplace = shape, inplace
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("_floor", None, persistent=False)
        self._kept = self.size
        self.alpha: Tensor | None = None
        """While it is set, a real share of ReLU per position, (c, h, w) or (c, 1, 1), stands in for the mask; see
        `raysp.methods.snl`. Neither a parameter nor part of the state."""
        self.score: Tensor | None = None
        """While it is set, (c, h, w), every backward pass adds to it what making the position linear, or a ReLU again, would
        change the loss by to first order, whatever its sign: |g·min(x, 0)| summed over `scored`, for the gradient g at the
        output and the input x. See `raysp.methods.walk`. Not part of the state."""
        self.scored = slice(None)
        """Which images of a batch count for the score."""

    @property
    def size(self) -> int:
        """Number of positions c·h·w, each of which could hold a ReLU."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Number of ReLUs: ones in the mask."""
        return self._kept

    @property
    def decided(self) -> str:
        """Which of the ways of `forward` is taken."""
        if self.alpha is not None:
            return "alpha"
        if self.score is not None:
            return "scored"  # whatever the mask: it may change between any two steps
        return {0: "identity", self.size: "relu"}.get(self._kept, "masked")

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask.

        Args:
            mask: bool (c, h, w).

        Raises:
            ValueError: another shape or type.
        """
        if mask.dtype != torch.bool or tuple(mask.shape) != self.shape:
            raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}; expected torch.bool {self.shape}")
        self.mask.copy_(mask)
        self._refresh()

    def _refresh(self) -> None:
        self._kept = int(self.mask.sum())
        # Channels innermost, as in the maps that it meets: a pass over two layouts takes six times as long.
        floor = torch.zeros(self.shape, device=self.mask.device).masked_fill_(~self.mask, -math.inf)
        floor = floor.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        if self._floor is None:
            self._floor = floor
        else:
            self._floor.copy_(floor)  # a recorded step reads it where it is

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Apply to a batch (n, c, h, w), or to vectors (n, c); the shape is kept."""
        if x_nchw.dim() == 2:
            return self.forward(x_nchw[:, :, None, None]).flatten(1)
        if self.alpha is not None:
            return x_nchw + self.alpha * (F.relu(x_nchw) - x_nchw)
        if self.score is not None:
            with torch.no_grad():
                negative = x_nchw[self.scored].clamp(max=0.0)  # before the ReLU overwrites it
            if self._floor is None:
                self._refresh()
            y = _FlooredReLU.apply(x_nchw, cast(Tensor, self._floor).to(x_nchw.dtype), self.inplace)
            return cast(Tensor, _Scored.apply(y, negative, self.score, self.scored))
        if self._kept == self.size:
            return F.relu(x_nchw, inplace=self.inplace)
        if self._kept == 0:
            return x_nchw
        assert self._floor is not None
        if torch.compiler.is_compiling():
            # What a compiler can join with its neighbours; the gradient at a kept 0 is 0 here too, and NaN stays NaN.
            floor = self._floor.to(x_nchw.dtype)
            return torch.where(x_nchw <= floor, floor, x_nchw)
        return cast(Tensor, _FlooredReLU.apply(x_nchw, self._floor.to(x_nchw.dtype), self.inplace))

    def extra_repr(self) -> str:
        """Shape and count, for printing."""
        return f"{self.shape}, kept {self.kept} of {self.size}"
