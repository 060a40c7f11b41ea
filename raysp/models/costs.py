"""What a model costs under private inference: ReLUs, multiply-accumulates, depth, parameters, and published estimates from them.

Owns the counting and the constants. Contract: counts are of the network as it would be deployed (collapsed for one exit) and per
input image; what is estimated is named `est_...` and never mixed with what was measured.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from raysp.models.collapse import collapse
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.models.operations import comparisons
from raysp.models.relu import MaskedReLU
from raysp.models.structure import Paths

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """One layer's share of a network's costs."""

    layer: str
    """Its name in the collapsed network; of a ReLU layer that by which masks and sensitivities know it."""
    kind: str
    """Convolution with its kernel and stride, linear, norm or ReLU."""
    relus: int = 0
    relu_positions: int = 0
    """ReLUs that the layer could hold."""
    macs: int = 0
    depth: int = 0
    params: int = 0
    comparisons: int = 0
    """Of a maximum, which private inference pays for like ReLUs."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """One exit's costs per image."""

    relus: int
    """ReLUs: ones in the masks."""
    macs: int
    """Multiply-accumulates of convolutions (1x1 shortcuts too) and linear layers."""
    depth: int
    """Convolutions on the longest way from the image to the logits, without the network's first; a gated block counts one, an
    auxiliary head none."""
    params: int
    """Trainable parameters."""
    comparisons: int = 0
    """Of maxima: k - 1 for one of k values."""
    layers: tuple[LayerCosts, ...] = field(default=(), repr=False)
    """The same per layer, in forward order."""

    def totals(self) -> dict[str, int]:
        """Name and value of each total."""
        return {"relus": self.relus, "macs": self.macs, "depth": self.depth, "params": self.params}

    def by_layer(self) -> list[dict[str, Any]]:
        """The layers as a record keeps them."""
        return [asdict(layer) for layer in self.layers]

    def table(self) -> "pd.DataFrame":
        """The layers as a table, a row each."""
        import pandas as pd  # half a second, which only this needs

        return pd.DataFrame(self.by_layer())


def count_costs(model: Network, exit: str = FINAL) -> Costs:  # noqa: A002 (the field's word)
    """Count one exit's costs on the collapsed network; nothing is computed.

    Args:
        model: with or without gated blocks and auxiliary classifiers; left as it is.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.

    Raises:
        ValueError: the model has no such exit.
    """
    plain = collapse(model, exit)
    modules, shapes = plain.called(), plain.shapes()
    body = Paths(plain.graph, modules).convolutions(plain.graph.exits[exit])
    deep = {name for name in body[1:] if not plain.in_ac_head(name)}
    layers: list[LayerCosts] = []
    seen: set[str] = set()
    for node in plain.graph.nodes:
        if node.module:
            of_call = _layer_costs(node.name, modules[node.module], shapes[node.name], depth=int(node.name in deep))
            layers.append(replace(of_call, params=0) if node.module in seen else of_call)
            seen.add(node.module)
    counted = tuple(layer for layer in layers if layer.macs or layer.params or layer.relu_positions or layer.comparisons)
    return Costs(
        relus=sum(layer.relus for layer in counted),
        macs=sum(layer.macs for layer in counted),
        depth=sum(layer.depth for layer in counted),
        comparisons=sum(layer.comparisons for layer in counted),
        params=sum(layer.params for layer in counted),
        layers=counted,
    )


# Published figures for DELPHI's garbled circuits (USENIX Security 2020): ResNet18 at 32x32, two processes on one EPYC 7502, mean
# of ten runs.
ONLINE_S_PER_RELU = 18.25e-6 + 3.57e-6
"""Evaluating a ReLU's circuit, and encoding its inputs."""
ONLINE_S_PER_MAC = 0.78e-9
ONLINE_BYTES_PER_RELU = 1_184
"""From server to client."""
OFFLINE_S_PER_RELU = 30.5e-6 + 7.6e-6
"""Garbling, and encoding."""
OFFLINE_S_PER_MAC = 0.52e-6
"""Homomorphic evaluation."""
OFFLINE_BYTES_PER_RELU = 17_072 + 2_016
"""The circuit, and the oblivious transfer of its inputs. The homomorphic ciphertexts' are not published with them."""
WAN_BITS_PER_S = 400e6
"""Of the wide-area setting of Cheetah (USENIX Security 2022)."""
WAN_ROUND_TRIP_S = 0.040


def estimate_delphi(relus: int, macs: int, relu_layers: int | None) -> dict[str, float | None]:
    """Estimate one image's cost under DELPHI from published constants; nothing is measured.

    "LAN" is the constants' own setting, two processes on one machine, so that the network costs nothing. "WAN" adds the traffic
    at 400 Mbit/s and, online, a round trip of 40 ms for each layer that has a ReLU and one for the result (ours: DELPHI's online
    phase waits once per such layer).

    Args:
        relus, macs: as `Costs` counts them.
        relu_layers: layers that keep a ReLU; None where that isn't known, which leaves the online time over WAN open.

    Returns:
        Seconds and bytes by column name.
    """
    online, offline = relus * ONLINE_S_PER_RELU + macs * ONLINE_S_PER_MAC, relus * OFFLINE_S_PER_RELU + macs * OFFLINE_S_PER_MAC
    online_bytes, offline_bytes = relus * ONLINE_BYTES_PER_RELU, relus * OFFLINE_BYTES_PER_RELU
    rounds = None if relu_layers is None else relu_layers + 1
    return {
        "est_delphi_online_lan_s": online,
        "est_delphi_online_wan_s": None if rounds is None else online + _over_wan(online_bytes) + rounds * WAN_ROUND_TRIP_S,
        "est_delphi_offline_lan_s": offline,
        "est_delphi_offline_wan_s": offline + _over_wan(offline_bytes),
        "est_delphi_online_bytes": online_bytes,
        "est_delphi_offline_bytes": offline_bytes,
    }


def _over_wan(num_bytes: int) -> float:
    return 8 * num_bytes / WAN_BITS_PER_S


def _layer_costs(name: str, module: nn.Module, shape: tuple[int, ...], depth: int) -> LayerCosts:
    params, outputs = sum(p.numel() for p in module.parameters()), math.prod(shape)
    if isinstance(module, MaskedReLU):
        return LayerCosts(layer=name, kind="ReLU", relus=module.kept, relu_positions=module.size)
    if isinstance(module, nn.Conv2d):
        kind = f"conv {module.kernel_size[0]}x{module.kernel_size[1]}, stride {module.stride[0]}"
        return LayerCosts(layer=name, kind=kind, macs=outputs * module.weight[0].numel(), depth=depth, params=params)
    if isinstance(module, nn.Linear):
        return LayerCosts(layer=name, kind="linear", macs=module.weight.numel(), params=params)
    kind = "norm" if params else type(module).__name__
    return LayerCosts(layer=name, kind=kind, params=params, comparisons=comparisons(module, outputs))
