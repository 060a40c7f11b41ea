"""A fine-tuning's student before its first step: its mask and weights, its shallow branches, its auxiliary classifiers.

Owns the order of these, and what is reported of each. Refuses to train (`raysp.stages.finetune`).
"""

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from raysp.engine.context import Context
from raysp.methods.head_fit import fit_heads
from raysp.methods.least_squares import fit_shallow_branches
from raysp.methods.ranking import PREFIX, ranked_masks, ranks_in
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.training.batches import Batches
from raysp.training.loop import accuracy
from raysp.training.recipes import gamma_at

if TYPE_CHECKING:
    from raysp.stages.finetune import FinetuneConfig

FIT_IMAGES = 2048
"""Training images that a least-squares start is fitted to."""


def start_student(student: Network, config: "FinetuneConfig", context: Context) -> dict[str, Any]:
    """Give the student its mask, and the weights that it starts with; return what its rows say of the mask."""
    layers = student.relu_layers()
    ranking = context.parents.get("ranking")
    source = ranking or context.parents["mask"]
    found = source.tensors()
    if ranking:
        ranks = ranks_in(found, [layer.name for layer in layers])
        found = {name: tensor for name, tensor in found.items() if not name.startswith(PREFIX)}
        assert config.budget is not None
        masks = ranked_masks(ranks, [layer.relu.shape for layer in layers], config.budget)
    if not ranking or config.weights == "continue":
        student.load_state_dict(found)
    if not ranking:
        masks = [layer.relu.mask.clone() for layer in layers]
    if config.weights == "rewind":
        student.load_state_dict(context.parents["baseline"].tensors())
    for layer, mask in zip(layers, masks, strict=True):
        layer.relu.set_mask(mask)
    of_mask = source.record["config"]
    return {
        "mask_method": of_mask["method"],
        "granularity": of_mask["granularity"],
        "mask_start": of_mask.get("start", "teacher"),
        "depth_price": of_mask.get("depth_price"),
        "sensitivity": source.record["metrics"].get("sensitivity"),
        "budget": of_mask.get("budget", config.budget),
    }


def grow_shallow_branches(model: Network, d_th: float | None, kernel_size: int) -> list[str]:
    """Give every block whose inner ReLU has d ≤ d_th a shallow branch; return those blocks' names.

    d is the share of the layer's positions that keep their ReLU (the paper's footnote 1). The ReLU after the stem and those after
    an addition are never touched.
    """
    gated = []
    for name, block in model.gated_blocks():
        assert block.inner_relu is not None
        if d_th is not None and block.inner_relu.kept / block.inner_relu.size <= d_th:
            block.add_shallow_branch(kernel_size)
            gated.append(name)
    return gated


def start_branches(config: "FinetuneConfig", student: Network, batches: Batches) -> dict[str, Any]:
    """Start the shallow branches; report how well they fit and what they are worth before any training."""
    found: dict[str, Any] = {}
    if config.gb_init == "least-squares":
        size = config.recipe.batch_size
        first = islice(batches.train(size, config.experiment.seed, epoch=0), -(-FIT_IMAGES // size))
        found["fit_r2"] = fit_shallow_branches(student, (images for images, *_ in first))
    student.set_gates(1.0)
    found["start_val_accuracy"] = accuracy(student, batches, "val")[FINAL]
    return found


def start_heads(config: "FinetuneConfig", student: Network, teacher: Network, batches: Batches) -> dict[str, Any]:
    """Fit the auxiliary classifiers; report how well, and what every exit is worth before any training.

    They are fitted with the gates as the first epoch has them: with shallow branches that start at random the network is as good
    as it was only while its gates are closed. So a stage that goes on from a checkpoint computes the same fit again, and then
    takes the checkpoint's weights.
    """
    student.set_gates(gamma_at(0, config.gate_epochs, config.gamma))
    rewound = config.weights == "rewind"  # its statistics are of maps without a mask
    found = refit_heads(config, student, teacher, batches, measure_body=rewound)
    student.set_gates(1.0)
    return {"ac_fit": found, "start_val_by_exit": accuracy(student, batches, "val")}


def refit_heads(
    config: "FinetuneConfig", student: Network, teacher: Network, batches: Batches, *, measure_body: bool = False
) -> dict[str, dict[str, Any]]:
    """Fit the auxiliary classifiers to the training part; how that ended, by exit."""
    seed = config.experiment.seed
    fits = fit_heads(student, teacher, lambda most: batches.sample(most, seed), measure_body=measure_body)
    return {name: asdict(fit) for name, fit in fits.items()}
