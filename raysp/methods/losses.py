"""The method's losses, each as the paper writes it.

Owns the distillation KL and the PRAM loss in its two forms. Refuses to weigh them; the stages do.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_kl(student_nk: Tensor, teacher_nk: Tensor, rho: float) -> Tensor:
    """ρ²·KL(σ(z^ar/ρ) ‖ σ(z^pr/ρ)), batch mean: the first term of equation 2, with the usual factor ρ².

    Args:
        student_nk: logits z^pr, (n, classes).
        teacher_nk: logits z^ar, (n, classes).
        rho: temperature, above 0.
    """
    log_student = F.log_softmax(student_nk / rho, dim=1)
    log_teacher = F.log_softmax(teacher_nk / rho, dim=1)
    return rho**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def pram_attention(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """PRAM as the method's released code computes it; β = 1000 belongs to this form.

    Per pair: the mean over channels of the squared map, flattened, divided by its L2 norm per image; then the mean over batch
    and positions of the squared difference. Summed over pairs. A map of zeros counts as zeros.

    Args:
        student, teacher: stage outputs (n, c, h, w), pair by pair.
    """
    return torch.stack([(_attention(s) - _attention(t)).square().mean() for s, t in zip(student, teacher, strict=True)]).sum()


def pram_eq2(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """PRAM to the letter of equation 2: half the sum over pairs of ‖Ψ_pr/‖Ψ_pr‖₂ − Ψ_ar/‖Ψ_ar‖₂‖₂, batch mean.

    Where the two are equal the gradient is 0; a map of zeros counts as zeros.

    Args:
        student, teacher: stage outputs (n, c, h, w), pair by pair.
    """
    distances = [_norm(_unit(s) - _unit(t)).mean() for s, t in zip(student, teacher, strict=True)]
    return 0.5 * torch.stack(distances).sum()


PRAM_LOSSES = {"attention": pram_attention, "eq2": pram_eq2}


def _attention(x_nchw: Tensor) -> Tensor:
    return _unit(cast(Tensor, _MeanSquare.apply(x_nchw)))


class _MeanSquare(torch.autograd.Function):
    """Mean over channels of the square, (n, c, h, w) to (n, h, w): one pass forward, one backward, in the map's own layout. Of a
    bfloat16 map it is float32.
    """

    @staticmethod
    def forward(ctx: Any, x_nchw: Tensor) -> Tensor:
        ctx.save_for_backward(x_nchw)
        exact = torch.promote_types(x_nchw.dtype, torch.float32)
        return torch.linalg.vector_norm(x_nchw, dim=1, dtype=exact).square() / x_nchw.shape[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x_nchw,) = ctx.saved_tensors
        return x_nchw * (grads[0] * (2.0 / x_nchw.shape[1])).to(x_nchw.dtype).unsqueeze(1)


def _unit(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    norm = _norm(flat).unsqueeze(1)
    return flat / norm.masked_fill(norm == 0, 1.0)


def _norm(x_nd: Tensor) -> Tensor:
    """L2 norm per row; torch gives it gradient 0, not NaN, at 0."""
    return torch.linalg.vector_norm(x_nd, dim=1)
