"""What an estimate is made from, what it says, and what a protocol must declare to give one.

Owns the reading of a record's costs by layer, with mistrust. Contract: an estimator reads counts alone, and leaves open what its
source doesn't give; a network with a layer that no source tells of has no counts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 2**40
"""More of anything in one layer is taken for a damaged record."""
MARK = "Estimated from published constants, not measured here"
"""What must stand beside every estimate."""


@dataclass(frozen=True, kw_only=True)
class ReLULayer:
    """A layer that keeps a ReLU."""

    kept: int
    positions: int
    """That could hold one: the values of its map."""


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """A convolution or a linear layer."""

    macs: int
    outputs: int
    """Values that it gives: those of the next ReLU layer's map, as records don't say more; 0 behind the last one."""
    is_on_path: bool
    """Whether it lies on the longest way: the first one, a convolution that counts as depth, or a linear layer. Shortcuts don't,
    nor do the few convolutions that some auxiliary heads have."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What of a network, as deployed, an estimate may depend on."""

    relu_layers: tuple[ReLULayer, ...]
    linear_layers: tuple[LinearLayer, ...]

    @property
    def relus(self) -> int:
        """In all layers."""
        return sum(layer.kept for layer in self.relu_layers)

    @property
    def macs(self) -> int:
        """In all layers."""
        return sum(layer.macs for layer in self.linear_layers)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one image takes; None where the source gives no constant."""

    online_s: float | None = None
    """Seconds over the fastest link of the source, LAN or one machine."""
    online_bytes: float | None = None
    """Sent by all parties once the image is there."""
    offline_bytes: float | None = None
    """Sent before, for each image anew."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A protocol with its published constants."""

    name: str
    """As a user gives it."""
    what: str
    """What it is, in a sentence for people."""
    source: str
    """Paper, table, year of each constant; and of what machine and link it is."""
    estimate: Callable[[Counts], Estimate]


def read_counts(layers: Iterable[Mapping[str, Any]]) -> Counts:
    """Read what a record keeps of one exit's layers (`raysp.models.costs.LayerCosts`, in forward order).

    Raises:
        ValueError: a layer lacks a count, or is one that costs something else than ReLUs and MACs do.
    """
    relu_layers: list[ReLULayer] = []
    linear: list[tuple[int, bool]] = []
    outputs: list[int] = []
    for layer in layers:
        name = str(layer.get("layer"))[:80] if isinstance(layer, Mapping) else "one"
        try:
            kept, positions, macs, depth, kind = (layer[n] for n in ("relus", "relu_positions", "macs", "depth", "kind"))
            compared = layer.get("comparisons", 0)  # records of before maxima were counted have none
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"layer {name} doesn't say its ReLUs, MACs, depth and kind; expected a record's costs") from None
        if not all(type(count) is int and 0 <= count <= MOST for count in (kept, positions, macs, depth, compared)):
            raise ValueError(f"layer {name} has counts that are none; expected whole numbers from 0 to 2**40")
        if kept > positions:
            raise ValueError(f"layer {name} keeps {kept} ReLUs of {positions}; expected at most all")
        if compared:
            raise ValueError(f"layer {name} takes maxima ({kind}), of which no source tells; expected none")
        if kept:
            relu_layers.append(ReLULayer(kept=kept, positions=positions))
        if positions:
            outputs += [positions] * (len(linear) - len(outputs))
        if macs:
            linear.append((macs, not linear or depth > 0 or kind == "linear"))
    outputs += [0] * (len(linear) - len(outputs))
    return Counts(
        relu_layers=tuple(relu_layers),
        linear_layers=tuple(
            LinearLayer(macs=macs, outputs=given, is_on_path=on_path)
            for (macs, on_path), given in zip(linear, outputs, strict=True)
        ),
    )
