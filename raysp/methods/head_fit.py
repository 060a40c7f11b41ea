"""Auxiliary classifiers as convex fits to the student as it is: before its fine-tuning, or after it (ours).

Of a head all but the last linear layer is taken as it is. The layer's weights are then a multinomial regression on what reaches
it: one minimum, whatever one starts from, found in seconds on cached features, where gradient descent on the whole network takes
epochs to bring a head from random weights to what it is worth, and pulls at the body meanwhile.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysp.methods.full_precision import full_precision
from raysp.methods.measured import measure
from raysp.models.exits import FINAL
from raysp.models.network import Network, head_path

TEACHER_SHARE = 0.5
"""Of what is fitted to: the teacher's probabilities at temperature 1; the labels have the rest. Labels alone are overfitted."""

RIDGE = 1e-3
"""Weight of half the squared weights, per class and image, of features scaled to deviation 1."""

MOST_IMAGES = 50_000
"""More are not looked at."""

CACHE_BYTES = 1 << 30
"""Of features, all heads together; where images have more, fewer images are looked at."""

CHUNK = 8192
"""Images whose logits are computed at once."""

MOST_STEPS = 100
"""Of L-BFGS."""

HISTORY = 20
"""Steps that it remembers, each with two tensors of the weights' size."""

Images = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Gives up to so many training images in batches: normalised images (n, c, h, w) and labels (n,), the same each time."""


@dataclass(frozen=True, kw_only=True)
class HeadFit:
    """How a head's fit ended."""

    loss: float
    """Cross-entropy with what it was fitted to, a mean over the images, without the ridge."""
    gradient: float
    """Largest absolute entry of the objective's gradient, by scaled features' weights."""
    steps: int
    """Times that loss and gradient were computed."""


@full_precision()
def fit_heads(student: Network, teacher: Network, images: Images) -> dict[str, HeadFit]:
    """Set the last linear layer of every auxiliary head to the fit, in the network as it is.

    Batch norms within heads get the images' statistics first, so that the heads compute the same in training mode. Everything
    else stays as it is. Both networks are left in evaluation mode.

    Args:
        student: with auxiliary heads, its gates and masks as they are to be.
        teacher: on the same device.
        images: see `Images`.

    Returns:
        How it ended, by exit.

    Raises:
        ValueError: there are no images.
    """
    student.eval()
    teacher.eval()
    heads = {name: student.module_at(head_path(name)) for name in student.ac_heads}
    layers = {name: _last_linear(head) for name, head in heads.items()}
    most = most_images(layers.values())
    if norms := [m for head in heads.values() for m in head.modules() if isinstance(m, nn.BatchNorm2d)]:
        measure(student, norms, (batch for batch, _ in images(most)))
    features, target = _cache(student, teacher, layers, images(most))
    return {name: _fit(layer, features.pop(name), target) for name, layer in layers.items()}  # the caches are large


def most_images(layers: Iterable[nn.Linear]) -> int:
    """How many images' features are cached, at most: `MOST_IMAGES`, or what `CACHE_BYTES` hold; at least one."""
    per_image = 4 * sum(layer.in_features for layer in layers)
    return max(1, min(MOST_IMAGES, CACHE_BYTES // max(1, per_image)))


def _last_linear(head: nn.Module) -> nn.Linear:
    assert isinstance(head, nn.Sequential)
    layer = head[-1]
    assert isinstance(layer, nn.Linear)
    return layer


@torch.no_grad()
def _cache(
    student: Network, teacher: Network, layers: dict[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Tensor], Tensor]:
    """What reaches each layer, (n, d) by exit, and what is fitted to, (n, classes); each row of that adds up to 1."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    targets: list[Tensor] = []

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen[name].append(inputs[0])

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    try:
        for images, labels in batches:
            student(images)
            teachers = F.softmax(teacher(images).logits[FINAL], dim=1)
            own = F.one_hot(labels, teachers.shape[1]).to(teachers.dtype)
            targets.append(torch.lerp(own, teachers, TEACHER_SHARE))
    finally:
        for hook in hooks:
            hook.remove()
    if not targets:
        raise ValueError("no images to fit the auxiliary classifiers to; expected some thousand")
    return {name: torch.cat(seen.pop(name)) for name in layers}, torch.cat(targets)


@torch.no_grad()
def _fit(layer: nn.Linear, x_nd: Tensor, target_nk: Tensor) -> HeadFit:
    """Write the fit into a layer. `x_nd` is scaled in place."""
    # Features differ in scale by orders of magnitude. Scaled ones need fewer steps, and one ridge fits all of them.
    variance, mean = torch.var_mean(x_nd, dim=0, correction=0)
    std = variance.sqrt()
    scale = torch.where(std > 1e-6 * std.max(), std, torch.inf).reciprocal()  # a constant feature says nothing
    x_nd.sub_(mean).mul_(scale)
    weight = torch.zeros_like(layer.weight).requires_grad_()
    bias = torch.zeros_like(layer.bias).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        tolerance_grad=1e-6,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    counted = 0

    def objective() -> Tensor:
        nonlocal counted
        counted += 1
        loss, weight.grad, bias.grad = loss_and_gradient(x_nd, target_nk, weight.detach(), bias.detach())
        return loss + 0.5 * RIDGE * weight.detach().square().sum()

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    loss, by_weight, by_bias = loss_and_gradient(x_nd, target_nk, weight.detach(), bias.detach())
    layer.weight.copy_(weight * scale)
    layer.bias.copy_(bias - layer.weight @ mean)
    largest = torch.cat([by_weight.flatten(), by_bias]).abs().max()
    return HeadFit(loss=float(loss), gradient=float(largest), steps=counted)


def loss_and_gradient(x_nd: Tensor, target_nk: Tensor, weight_kd: Tensor, bias_k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy of a linear layer's softmax with given probabilities; and its gradient by weights and bias, with the
    ridge's.

    Computed in chunks, so that no more than `CHUNK` images' logits are there at once.

    Args:
        x_nd: features.
        target_nk: probabilities; each row adds up to 1.
        weight_kd, bias_k: of the layer.

    Returns:
        The loss without the ridge, a scalar; its gradients, (k, d) and (k,).
    """
    by_weight, by_bias = RIDGE * weight_kd * len(x_nd), torch.zeros_like(bias_k)
    loss = x_nd.new_zeros(())
    for x, target in zip(torch.split(x_nd, CHUNK), torch.split(target_nk, CHUNK), strict=True):
        log_q = F.log_softmax(F.linear(x, weight_kd, bias_k), dim=1)
        loss -= (target * log_q).sum()
        excess = log_q.exp_().sub_(target)
        by_weight.addmm_(excess.T, x)
        by_bias += excess.sum(dim=0)
    return loss / len(x_nd), by_weight / len(x_nd), by_bias / len(x_nd)
