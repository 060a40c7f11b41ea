"""What a model costs under private inference: ReLUs, multiply-accumulates, depth, parameters.

Owns the counting. Contract: counts are of the network as it would be deployed (collapsed for one exit) and per input image.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from raysp.models.collapse import collapse
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """One layer's share of a network's costs."""

    layer: str
    """Its name in the collapsed network."""
    kind: str
    """Convolution with its kernel and stride, linear, norm or ReLU."""
    relus: int = 0
    relu_positions: int = 0
    """ReLUs that the layer could hold."""
    macs: int = 0
    depth: int = 0
    params: int = 0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """One exit's costs per image."""

    relus: int
    """ReLUs: ones in the masks."""
    macs: int
    """Multiply-accumulates of convolutions (1x1 shortcuts too) and linear layers."""
    depth: int
    """Convolutions of the blocks on the main path (3x3, or 5x5 where a shallow one is so); a gated block counts one, an auxiliary
    head none."""
    params: int
    """Trainable parameters."""
    layers: tuple[LayerCosts, ...] = field(default=(), repr=False)
    """The same per layer, in forward order."""

    def totals(self) -> dict[str, int]:
        """Name and value of each total."""
        return {"relus": self.relus, "macs": self.macs, "depth": self.depth, "params": self.params}

    def table(self) -> pd.DataFrame:
        """The layers as a table, a row each."""
        return pd.DataFrame([asdict(layer) for layer in self.layers])


def count_costs(model: Network, exit: str = FINAL) -> Costs:  # noqa: A002 (the field's word)
    """Count one exit's costs on the collapsed network; nothing is computed.

    Args:
        model: with or without gated blocks and auxiliary classifiers; left as it is.
        exit: "final", or "ac<s>".

    Raises:
        ValueError: the model has no such exit.
    """
    plain = collapse(model, exit).to("meta")
    deep = {f"{name}.{conv}" for name, block in plain.blocks() for conv, _ in block.main_path()}
    layers: list[LayerCosts] = []

    def counter(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            layers.append(_layer_costs(name, module, output, depth=int(name in deep)))

        return count

    for name, module in plain.named_modules():
        if not list(module.children()):
            module.register_forward_hook(counter(name))
    with torch.inference_mode():
        plain(plain.example_input().to("meta"))
    counted = tuple(layer for layer in layers if layer.macs or layer.params or layer.relu_positions)
    return Costs(
        relus=sum(layer.relus for layer in counted),
        macs=sum(layer.macs for layer in counted),
        depth=sum(layer.depth for layer in counted),
        params=sum(layer.params for layer in counted),
        layers=counted,
    )


def _layer_costs(name: str, module: nn.Module, output: Tensor, depth: int) -> LayerCosts:
    params = sum(p.numel() for p in module.parameters())
    if isinstance(module, MaskedReLU):
        return LayerCosts(layer=name, kind="ReLU", relus=module.kept, relu_positions=module.size)
    if isinstance(module, nn.Conv2d):
        kind = f"conv {module.kernel_size[0]}x{module.kernel_size[1]}, stride {module.stride[0]}"
        return LayerCosts(layer=name, kind=kind, macs=output[0].numel() * module.weight[0].numel(), depth=depth, params=params)
    if isinstance(module, nn.Linear):
        return LayerCosts(layer=name, kind="linear", macs=module.weight.numel(), params=params)
    return LayerCosts(layer=name, kind="norm" if params else type(module).__name__, params=params)
