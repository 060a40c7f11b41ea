"""The masked ReLU in one pass each way, in Triton, for `gpu.py` to compare with.

Maps are channels last, and given as they lie: (n, h, w, c), contiguous; the floor is (h, w, c).
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

BLOCK = 2048


@triton.jit  # type: ignore[untyped-decorator]
def _forward(x_ptr, floor_ptr, size, period, block: tl.constexpr):  # type: ignore[no-untyped-def]
    first = tl.program_id(0) * block
    offsets = tl.arange(0, block)
    inside = first + offsets < size
    x = tl.load(x_ptr + first + offsets, mask=inside)
    floor = tl.load(floor_ptr + (first % period) + offsets, mask=inside)
    tl.store(x_ptr + first + offsets, tl.where(x <= floor, floor, x), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(y_ptr, gradient_ptr, floor_ptr, out_ptr, size, period, block: tl.constexpr):  # type: ignore[no-untyped-def]
    first = tl.program_id(0) * block
    offsets = tl.arange(0, block)
    inside = first + offsets < size
    y = tl.load(y_ptr + first + offsets, mask=inside)
    floor = tl.load(floor_ptr + (first % period) + offsets, mask=inside)
    gradient = tl.load(gradient_ptr + first + offsets, mask=inside)
    passed = tl.where(y > floor, gradient, tl.zeros_like(gradient))
    tl.store(out_ptr + first + offsets, passed, mask=inside)


def _grid(x: Tensor, floor: Tensor) -> tuple[int]:
    assert x.is_contiguous() and floor.is_contiguous() and floor.numel() % BLOCK == 0
    return (triton.cdiv(x.numel(), BLOCK),)


def forward(x: Tensor, floor: Tensor) -> Tensor:
    """max(x, floor), in place."""
    _forward[_grid(x, floor)](x, floor, x.numel(), floor.numel(), block=BLOCK)
    return x


def backward(y: Tensor, gradient: Tensor, floor: Tensor) -> Tensor:
    """The gradient where y is above the floor, else 0."""
    out = torch.empty_like(y)
    _backward[_grid(y, floor)](y, gradient, floor, out, y.numel(), floor.numel(), block=BLOCK)
    return out
