"""The flags of `raysp pi`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from raysp.latency.protocols import Protocol
from raysp.methods.choices import AcHead
from raysp.pi.wire import LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Run a trained model under private inference, each party in a process of its own on this machine; writes
    pi-<exit>-<protocol>.json into its directory.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL_DIR")]
    """A finished stage's directory (runs/.../stages/finetune-<key>), or one that raysp.save_model wrote."""
    exit: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: final, or the only one)")] = None
    """Which classifier: final, or ac<s>."""
    protocol: Protocol = "cheetah"
    """`cheetah` is a real two-party run; `semi2k` its online phase alone, with a trusted dealer."""
    warm: int = 3
    """Runs after the first."""
    image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: noise)")] = None
    """A picture; costs don't depend on it."""
    calibration: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Compare with what this calibration predicts; by default pi-calibration-<protocol>.json in the results directory."""
    host: str = LOOPBACK
    """Address that both parties listen on. Who can reach it can reach them."""
    ports: Annotated[tuple[int, int] | None, arg(metavar="PORT PORT", help_behavior_hint="(default: free ones)")] = None
    """The parties' ports."""
    time_limit_s: float = 3600.0
    """Seconds after which it is given up."""


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Measure a network family's layers once, so that `predict` knows any of its members."""

    out: Annotated[Positional[Path], arg(metavar="FILE")]
    """Where to write; must not be there yet."""
    model: str = "resnet18"
    """The family's network."""
    width: Annotated[int | None, arg(metavar="CHANNELS", help_behavior_hint="(default: the model's own)")] = None
    """Channels of its first stage."""
    image_size: int = 32
    """Height and width of the images in pixels."""
    in_channels: int = 3
    """Channels of the images."""
    num_classes: int = 10
    """Classes that it tells apart."""
    kernels: tuple[int, ...] = (3,)
    """Kernels that shallow branches may have."""
    heads: tuple[AcHead, ...] = ("pool",)
    """Heads that auxiliary classifiers may have."""
    protocol: Protocol = "cheetah"
    """`cheetah` is a real two-party run; `semi2k` its online phase alone, with a trusted dealer."""
    runs: int = 5
    """How often each layer is run."""
    time_limit_s: float = 7200.0
    """Seconds after which it is given up."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Say what a model will take under private inference, from a calibration."""

    model: Annotated[Positional[str], arg(metavar="MODEL_DIR")]
    """A finished stage's directory (runs/.../stages/finetune-<key>), or one that raysp.save_model wrote."""
    calibration: Annotated[tuple[str, ...], arg(metavar="FILE ...", help_behavior_hint="(default: those of the package)")] = ()
    """What `calibrate` wrote, on one machine; the first count where several have a layer."""
    exit: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: final, or the only one)")] = None
    """Which classifier: final, or ac<s>."""
    link: Annotated[str | None, arg(metavar="BANDWIDTH,ROUND_TRIP", help_behavior_hint="")] = None
    """A network between the parties, such as 100mbit,20ms, beside lan (3gbit,0.3ms) and wan (400mbit,40ms)."""
