"""A fine-tuning's student before its first step: its mask and weights, its shallow branches, its auxiliary classifiers.

Owns the order of these, and what is reported of each. Refuses to train (`raysp.stages.finetune`).
"""

from collections.abc import Container, Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from raysp.engine.context import Context, Parent
from raysp.methods.choices import GateStart, Weights
from raysp.methods.head_fit import fit_heads
from raysp.methods.least_squares import fit_shallow_branches
from raysp.methods.measured import measure
from raysp.methods.ranking import LAST, PREFIX, ranked_masks, ranks_in
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.training.batches import Batches
from raysp.training.loop import accuracy

FIT_IMAGES = 2048
"""Training images that batch norms are measured on, and a least-squares start is fitted to."""


def start_student(student: Network, context: Context, weights: Weights, budget: int | None) -> dict[str, Any]:
    """Give a student its mask, and the weights that it starts with.

    Args:
        student: as it was built.
        context: the fine-tuning's.
        weights: see `FinetuneConfig`.
        budget: ReLUs to keep, where the mask comes from a ranking.

    Returns:
        What its rows say of the mask.
    """
    layers = student.relu_layers()
    ranking = context.parents.get("ranking")
    source = ranking or context.parents["mask"]
    found = source.tensors()
    if ranking:
        assert budget is not None
        masks = ranked_masks(ranks_in(found, [l.name for l in layers]), [l.relu.shape for l in layers], budget)
    else:
        masks = [found[f"{layer.name}.mask"] for layer in layers]
    if weights == "rewind":
        found = context.parents["baseline"].tensors()
    student.load_state_dict({name: tensor for name, tensor in found.items() if not name.startswith(PREFIX)})
    for layer, mask in zip(layers, masks, strict=True):
        layer.relu.set_mask(mask)
    of_mask = source.record["config"]
    return {
        "mask_method": of_mask["method"],
        "granularity": of_mask["granularity"],
        "mask_start": of_mask.get("start", "teacher"),
        "depth_price": of_mask.get("depth_price"),
        "layer_price": of_mask.get("layer_price"),
        "sensitivity": source.record["metrics"].get("sensitivity"),
        "budget": of_mask.get("budget", budget),
    }


def share_out_rest(student: Network, ranking: Parent, budget: int, replaced: Container[str]) -> None:
    """Give the whole budget to the ReLU layers that are left in the end, by their ranking.

    Args:
        student: with the mask of this budget.
        ranking: the finished stage.
        budget: ReLUs to keep.
        replaced: ReLU layers inside blocks that are gated. They keep what they have, so that shallow branches are fitted to that.
    """
    layers = student.relu_layers()
    ranks = ranks_in(ranking.tensors(), [layer.name for layer in layers])
    last = [torch.full_like(r, LAST) if l.name in replaced else r for l, r in zip(layers, ranks, strict=True)]
    for layer, mask in zip(layers, ranked_masks(last, [layer.relu.shape for layer in layers], budget), strict=True):
        if layer.name not in replaced:
            layer.relu.set_mask(mask)


def grow_shallow_branches(model: Network, which: float | Container[str] | None, kernel_size: int) -> list[str]:
    """Give blocks a shallow branch each; return their names, in forward order.

    Args:
        model: with its masks.
        which: blocks by name; or d_th: every block whose inner ReLU keeps at most this share of its positions (the paper's
            footnote 1); None is no block. The ReLU after the stem and those after an addition are never touched.
        kernel_size: of the branches' convolutions.
    """
    gated = []
    for name, block in model.gated_blocks():
        dense = block.inner_relu.kept / block.inner_relu.size
        if which is not None and (dense <= which if isinstance(which, int | float) else name in which):
            block.add_shallow_branch(kernel_size)
            gated.append(name)
    return gated


def measure_body(student: Network, batches: Batches, batch_size: int, seed: int) -> None:
    """Measure the batch norms of a rewound student: their statistics are the all-ReLU network's, of maps without a mask."""
    norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    measure(student, norms, some_images(batches, batch_size, seed))


def start_branches(student: Network, batches: Batches, start: GateStart, batch_size: int, seed: int) -> dict[str, Any]:
    """Start the shallow branches; report how well they fit and what they are worth before any training."""
    found: dict[str, Any] = {}
    if start == "least-squares":
        found["fit_r2"] = fit_shallow_branches(student, some_images(batches, batch_size, seed))
    student.set_gates(1.0)
    found["start_val_accuracy"] = accuracy(student, batches, "val")[FINAL]
    return found


def start_heads(student: Network, teacher: Network, batches: Batches, gamma: float, seed: int) -> dict[str, Any]:
    """Fit the auxiliary classifiers; report how well, and what every exit is worth before any training.

    They are fitted with the gates as the first epoch has them: with shallow branches that start at random the network is as good
    as it was only while its gates are closed. So a stage that goes on from a checkpoint computes the same fit again, and then
    takes the checkpoint's weights.
    """
    student.set_gates(gamma)
    found = refit_heads(student, teacher, batches, seed)
    student.set_gates(1.0)
    return {"ac_fit": found, "start_val_by_exit": accuracy(student, batches, "val")}


def refit_heads(student: Network, teacher: Network, batches: Batches, seed: int) -> dict[str, dict[str, Any]]:
    """Fit the auxiliary classifiers to the training part; how that ended, by exit."""
    fits = fit_heads(student, teacher, lambda most: batches.sample(most, seed))
    return {name: asdict(fit) for name, fit in fits.items()}


def some_images(batches: Batches, batch_size: int, seed: int, epoch: int = 0) -> Iterator[Tensor]:
    """The first `FIT_IMAGES` that the training will see in an epoch, in batches."""
    return (images for images, *_ in islice(batches.train(batch_size, seed, epoch), -(-FIT_IMAGES // batch_size)))
