"""What a model costs under private inference: ReLUs, multiply-accumulates, depth, parameters.

Owns the counting. Contract: counts are of the network as it would be deployed (collapsed for one exit) and per input image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysp.models.collapse import collapse
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU


@dataclass(frozen=True, kw_only=True)
class Costs:
    """One exit's costs per image."""

    relus: int
    """ReLUs: ones in the masks."""
    macs: int
    """Multiply-accumulates of convolutions (1x1 shortcuts too) and linear layers."""
    depth: int
    """3x3 convolutions of the blocks on the main path; a gated block counts one, an auxiliary head none."""
    params: int
    """Trainable parameters."""


def count_costs(model: Network, exit: str = FINAL) -> Costs:  # noqa: A002 (the field's word)
    """Count one exit's costs by running one black image through the collapsed network.

    Args:
        model: with or without gated blocks and auxiliary classifiers; left as it is.
        exit: "final", or "ac<s>".

    Raises:
        ValueError: the model has no such exit.
    """
    plain = collapse(model, exit).cpu()
    macs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()

    hooks = [m.register_forward_hook(count) for m in plain.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.inference_mode():
        plain(plain.example_input())
    for hook in hooks:
        hook.remove()
    return Costs(
        relus=sum(m.kept for m in plain.modules() if isinstance(m, MaskedReLU)),
        macs=macs,
        depth=sum(block.depth for _, block in plain.blocks()),
        params=sum(p.numel() for p in plain.parameters()),
    )
