"""Slow, obvious versions of what the library computes fast."""

import itertools

import numpy as np
import torch


def masked_relu(x_nchw, mask_chw):
    """The product form of the masked ReLU."""
    m = mask_chw.to(x_nchw.dtype)
    return m * torch.relu(x_nchw) + (1 - m) * x_nchw


def water_fill(sensitivity, sizes, budget):
    """r_l = min(size_l, c·η_l) by bisection on c; real-valued. Layers of sensitivity 0 only take what the others can't."""
    sensitivity, sizes = np.asarray(sensitivity, dtype=float), np.asarray(sizes, dtype=float)
    full = sizes * (sensitivity > 0)
    if budget >= full.sum():
        rest, room = budget - full.sum(), sizes - full
        return full + water_fill((room > 0).astype(float), room, rest) if rest else full
    low, high = 0.0, 1e30
    for _ in range(400):
        middle = (low + high) / 2
        if np.minimum(sizes, middle * sensitivity).sum() < budget:
            low = middle
        else:
            high = middle
    return np.minimum(sizes, high * sensitivity)


def distillation_kl(student, teacher, rho):
    p = torch.softmax(teacher / rho, dim=1)
    q = torch.softmax(student / rho, dim=1)
    return rho**2 * (p * (p / q).log()).sum(dim=1).mean()


def pram_attention(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        squared = []
        for n in range(len(s)):
            a = (s[n] ** 2).mean(0).flatten()
            b = (t[n] ** 2).mean(0).flatten()
            squared.append((a / a.norm() - b / b.norm()) ** 2)
        total = total + torch.stack(squared).mean()
    return total


def pram_eq2(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        distances = [(a.flatten() / a.norm() - b.flatten() / b.norm()).norm() for a, b in zip(s, t, strict=True)]
        total = total + torch.stack(distances).mean() / 2
    return total


def nondominated(points):
    """Rows (accuracy up, costs down) that no other row dominates, by comparing all pairs."""
    signed = np.asarray(points, dtype=float) * np.array([-1] + [1] * (np.shape(points)[1] - 1))
    keep = np.ones(len(signed), dtype=bool)
    for i, j in itertools.permutations(range(len(signed)), 2):
        if (signed[j] <= signed[i]).all() and (signed[j] < signed[i]).any():
            keep[i] = False
    return keep


def area(corners):
    """Of the union of rectangles from (0, 0) to these corners, by cells of their grid."""
    xs, ys = (sorted({0.0, *(corner[axis] for corner in corners)}) for axis in (0, 1))
    cells = itertools.product(itertools.pairwise(xs), itertools.pairwise(ys))
    return sum((x1 - x0) * (y1 - y0) for (x0, x1), (y0, y1) in cells if any(a >= x1 and b >= y1 for a, b in corners))


def count_by_hooks(model):
    """ReLUs, multiply-accumulates and parameters of one forward pass, by looking at what every layer really does."""
    relus = macs = 0

    def watch(module, inputs, output):
        nonlocal relus, macs
        x = inputs[0]
        if isinstance(module, torch.nn.Conv2d):
            patches = torch.nn.functional.unfold(
                torch.ones_like(x), module.kernel_size, padding=module.padding, stride=module.stride, dilation=module.dilation
            )
            macs += patches[0].numel() * module.out_channels // module.groups
        elif isinstance(module, torch.nn.Linear):
            macs += x[0].numel() * output[0].numel()
        elif type(module).__name__ == "MaskedReLU":
            relus += int((module.forward(torch.full_like(x, -1.0))[0] == 0).sum())

    handles = [m.register_forward_hook(watch) for m in model.modules()]
    with torch.no_grad():
        model(model.example_input())
    for handle in handles:
        handle.remove()
    return relus, macs, sum(p.numel() for p in model.parameters() if p.requires_grad)
