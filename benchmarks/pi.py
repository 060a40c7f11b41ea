"""Private inference of ResNet18 at 32x32, measured: what ReLUs, depth and an early exit save, and what the cost model foretells.

    python benchmarks/pi.py --keep DIR                                  # width 16, the cost model on models that it never saw
    python benchmarks/pi.py --keep DIR --width 64 --models baseline ... # the real size, some minutes and 3.3 GB a party each

Needs the extra `pi`. Weights are random: costs don't depend on them. What lies in DIR already is not measured again. The
last columns say how many cores others kept busy meanwhile: where that is more than a tenth, remove the file and try again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from tabulate import tabulate

from analysis.published import FULL_RELUS
from raysp.latency.known import read_calibrations
from raysp.latency.prediction import predict
from raysp.latency.protocols import Protocol
from raysp.models import build_model
from raysp.models.costs import count_costs, estimate_delphi
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.pi.calibration import calibrate, family
from raysp.pi.measurement import MeasureOptions, measure

CLASSES, SIZE = 10, 32
GATED = (1, 3)
"""Blocks of `gated`: the second of the first stage and of the second. Their inner ReLUs are off in every mask here, as they are
where gated branching takes a block, so that gating changes convolutions and nothing else.
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to measure."""

    says: str
    relus: float | None = None
    """ReLUs that the mask keeps, as a share; None keeps all."""
    gated: tuple[int, ...] = ()
    exit: str = FINAL
    kernel: int = 3

    def build(self, width: int) -> Network:
        """The network, not collapsed yet."""
        torch.manual_seed(0)
        model = build_model("resnet18", num_classes=CLASSES, image_size=SIZE, width=width)
        if self.relus is not None:
            _mask(model, round(self.relus * FULL_RELUS["resnet18"] * width / 64))
        for index in self.gated:
            model.gated_blocks()[index][1].add_shallow_branch(self.kernel)
        if self.exit != FINAL:
            model.add_exit(int(self.exit.removeprefix("ac")), "pool")
        return model.eval()


FIFTY = 50_000 / FULL_RELUS["resnet18"]
CASES = {
    "baseline": Case(says="all ReLUs"),
    "half": Case(says="50 % of the ReLUs", relus=0.5),
    "mask": Case(says="9 % of the ReLUs (50k at width 64)", relus=FIFTY),
    "none": Case(says="no ReLU", relus=0.0),
    "shallow4": Case(says="all ReLUs, four blocks shallow", gated=(0, 1, 2, 3)),
    "gated": Case(says="9 %, two blocks shallow", relus=FIFTY, gated=GATED),
    "gated5": Case(says="9 %, two blocks shallow, 5x5", relus=FIFTY, gated=GATED, kernel=5),
    "ac3": Case(says="9 %, two blocks shallow, cut after stage 3", relus=FIFTY, gated=GATED, exit="ac3"),
    "ac2": Case(says="50 %, cut after stage 2", relus=0.5, exit="ac2"),
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure."""

    keep: Path
    """Where measurements are kept."""
    width: int = 16
    models: tuple[str, ...] = tuple(CASES)
    protocol: Protocol = "cheetah"
    warm: int = 3
    calibrate_runs: int = 5
    """Runs of each layer for the cost model; 0 leaves it out."""
    print_only: bool = False
    """Measure nothing."""


def main(flags: Flags) -> None:
    """Measure what is missing, and print."""
    flags.keep.mkdir(parents=True, exist_ok=True)
    calibration = flags.keep / f"calibration-{flags.width}-{flags.protocol}.json"
    if flags.calibrate_runs and not flags.print_only and not calibration.exists():
        described = {"model": "resnet18", "num_classes": CLASSES, "image_size": SIZE, "in_channels": 3, "width": flags.width}
        networks = family(
            "resnet18", num_classes=CLASSES, image_size=SIZE, in_channels=3, width=flags.width, kernels=(3, 5), heads=["pool"]
        )
        known = calibrate(networks, protocol=flags.protocol, described=described, runs=flags.calibrate_runs)
        calibration.write_text(json.dumps(known.to_json(), indent=1))
    rows = []
    for name in flags.models:
        case = CASES[name]
        path = flags.keep / f"{name}-{flags.width}-{flags.protocol}.json"
        if not (path.exists() or flags.print_only):
            options = MeasureOptions(protocol=flags.protocol, warm=flags.warm)
            path.write_text(json.dumps(measure(case.build(flags.width), case.exit, options, tell=print), indent=1))
        if path.exists():
            rows.append(_row(name, case, flags, json.loads(path.read_text()), calibration))
    print(tabulate(rows, headers="keys", tablefmt="pipe"))


def _row(name: str, case: Case, flags: Flags, found: dict[str, Any], calibration: Path) -> dict[str, Any]:
    model = case.build(flags.width)
    costs = count_costs(model, case.exit)
    low, high = found["time_s_range"]
    delphi = {k: v or 0.0 for k, v in estimate_delphi(costs.relus, costs.macs, None).items()}
    row = {
        "model": case.says,
        "ReLUs": f"{costs.relus:,}",
        "M MACs": f"{costs.macs / 1e6:.1f}",
        "depth": costs.depth,
        "warm s": f"{found['time_s']:.2f} ({low:.2f} to {high:.2f})",
        "MB": f"{found['bytes'] / 1e6:.2f}",
        "cold s": f"{found['cold']['time_s']:.1f}",
        "cold MB": f"{found['cold']['bytes'] / 1e6:.1f}",
        "CPU s": " + ".join(f"{party['cpu_s']['median']:.1f}" for party in found["parties"].values()),
        "GB a party": f"{max(party['peak_memory_bytes'] for party in found['parties'].values()) / 1e9:.1f}",
        "error": f"{found['max_error_relative']:.0e}",
        "messages": round(found["messages"]),
        "DELPHI est. s on/offline": f"{delphi['est_delphi_online_lan_s']:.1f} / {delphi['est_delphi_offline_lan_s']:.0f}",
        "est. MB": f"{delphi['est_delphi_online_bytes'] / 1e6:.0f} / {delphi['est_delphi_offline_bytes'] / 1e6:.0f}",
        "others' cores": f"{found['others_cores']:.2f}",
    }
    if calibration.exists():
        expected = predict(model, case.exit, read_calibrations([calibration]))
        row |= {
            "predicted s": f"{expected.time_s:.2f} ({expected.time_s / found['time_s'] - 1:+.0%})",
            "predicted MB": f"{expected.bytes / 1e6:.2f} ({expected.bytes / found['bytes'] - 1:+.1%})",
            "LAN, WAN s (modelled)": ", ".join(f"{seconds:.1f}" for seconds in expected.modelled_s.values()),
        }
    return row


def _mask(model: Network, budget: int) -> None:
    """Keep so many ReLUs at random positions; none of the inner ones of `GATED`."""
    off = {id(model.gated_blocks()[index][1].inner_relu) for index in GATED}
    relus = [layer.relu for layer in model.relu_layers() if id(layer.relu) not in off]
    order = torch.randperm(sum(relu.size for relu in relus)) < budget
    for layer in model.relu_layers():
        if id(layer.relu) in off:
            layer.relu.set_mask(torch.zeros(layer.relu.shape, dtype=torch.bool))
    for relu, mask in zip(relus, torch.split(order, [relu.size for relu in relus]), strict=True):
        relu.set_mask(mask.view(relu.shape))


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
