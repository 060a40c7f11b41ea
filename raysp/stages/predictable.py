"""Whether a network's costs can be predicted, asked before anything of it is trained.

Owns the question, of the network as it is and of what a sweep is to make of it. Refuses to predict (`raysp.planning.weighing`).
Contract: what passes here can be told of every stage that pauses, and of every model in the end.
"""

import copy
from collections.abc import Iterable

import torch

from raysp.latency.prediction import parts_of
from raysp.methods.choices import AcHead, Choice
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.planning.weighing import Weighing


def check_predicted(network: Network, weighing: Weighing, choices: Iterable[Choice]) -> None:
    """Refuse what can't be predicted of a network, or of what is to be made of it.

    Args:
        network: with all its ReLUs, on "meta".
        weighing: what is asked for.
        choices: the configurations.

    Raises:
        ValueError: a cost can't be told, or the user's own calibrations have no convolution of the network.
    """
    if own := weighing.calibrations:
        shapes = [part.shape for part in parts_of(network, FINAL) if part.shape]
        if not own.has_any(shapes):
            families = "; ".join(", ".join(f"{k} {v}" for k, v in one.family.items()) for one in own.named.values())
            raise ValueError(
                f"--calibration {' '.join(own.named)} has no layer of {network.name}: it is of {families}; make one of "
                "this network: raysp pi calibrate with its --model, --width, --image-size, --in-channels, --num-classes, "
                "--kernels and --heads"
            )
    if not weighing.predicts:
        return
    largest(network, weighing)
    gated = [c for c in choices if c.d_th is not None or c.gates_by_loss]
    for kernel_size in {c.kernel_size for c in gated}:
        _weigh(network, weighing, kernel_size=kernel_size)
    for placement, head in {(c.ac_after, c.ac_head) for c in choices if c.ac_after}:
        _weigh(network, weighing, placement, head)


def largest(network: Network, weighing: Weighing) -> dict[str, float]:
    """What a network costs with all its ReLUs, of each of the weighed costs.

    Raises:
        ValueError: one can't be predicted.
    """
    return weighing.values(_costs(network, weighing)[FINAL])


def _weigh(
    network: Network,
    weighing: Weighing,
    ac_after: tuple[int, ...] = (),
    ac_head: AcHead = "pool",
    kernel_size: int | None = None,
) -> None:
    """Raise ValueError unless every exit can be told, with all blocks gated, if there is a kernel for that."""
    with torch.device("meta"):
        network = copy.deepcopy(network)
        for stage in ac_after:
            network.add_exit(stage, ac_head)
        if kernel_size is not None:
            for _, block in network.gated_blocks():
                block.add_shallow_branch(kernel_size)
    _costs(network, weighing)


def _costs(network: Network, weighing: Weighing) -> dict[str, dict[str, object]]:
    """Of every exit. Raises ValueError."""
    try:
        return weighing.of_network(network)
    except ValueError as error:
        raise ValueError(f"{', '.join(weighing.costs)} of {network.name} can't be weighed: {error}") from error
