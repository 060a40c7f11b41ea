"""Predicted against measured: models that no calibration saw, gated, cut and masked, of three networks and two widths.

    python benchmarks/predicted.py --keep DIR

Needs the extra `pi`, and a quiet machine: others' work falsifies seconds. What is predicted comes from the calibrations of the
package, or from `--calibration FILE ...`. Weights and masks are random: costs don't depend on them. What lies in DIR already is
not measured again.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tabulate import tabulate
from tyro.conf import arg

from raysp.latency.known import packaged, read_calibrations
from raysp.latency.prediction import predict
from raysp.models import build_model
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.pi.measurement import MeasureOptions, measure

CLASSES, SIZE = 10, 32
NETWORKS = ("resnet18-16", "vgg16-16", "wrn22-8-16", "resnet18-64", "vgg16-64", "resnet18-24", "vgg16-40")
"""Networks and widths; the package has no calibration of the last two, whose layers are fitted."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is made of a network."""

    relus: float
    """Share that the mask keeps."""
    gated: int = 0
    """So many of its blocks, from the last one that the exit has on, are one convolution."""
    is_cut: bool = False
    """Whether it ends after the last stage but one."""

    def build(self, name: str, width: int) -> tuple[Network, str]:
        """The network, not collapsed yet, and its exit."""
        torch.manual_seed(0)
        model = build_model(name, num_classes=CLASSES, image_size=SIZE, width=width)
        layers = [layer.relu for layer in model.relu_layers()]
        kept = torch.randperm(sum(relu.size for relu in layers)) < round(self.relus * model.num_relus())
        for relu, mask in zip(layers, torch.split(kept, [relu.size for relu in layers]), strict=True):
            relu.set_mask(mask.view(relu.shape))
        blocks = model.gated_blocks()
        for _, block in blocks[1 : 1 + self.gated]:
            block.add_shallow_branch(3)
        last = len(model.origin.points) - 1
        if self.is_cut:
            model.add_exit(last, "grid")
        return model.eval(), f"ac{last}" if self.is_cut else FINAL


CASES = {
    "masked": Case(relus=0.3),
    "gated": Case(relus=0.09, gated=3),
    "cut": Case(relus=0.18, gated=1, is_cut=True),
}


def main(
    keep: Path,
    networks: Annotated[tuple[str, ...], arg(metavar="NAME-WIDTH ...")] = NETWORKS,
    calibration: tuple[Path, ...] = (),
    warm: int = 3,
    *,
    print_only: bool = False,
) -> None:
    """Measure what is missing, and print.

    Args:
        keep: where measurements are kept.
        networks: a built-in network and a width each.
        calibration: what to predict by, in place of the package's.
        warm: runs after the first.
        print_only: measure nothing.
    """
    keep.mkdir(parents=True, exist_ok=True)
    known = read_calibrations(calibration) if calibration else packaged()
    rows, off = [], []
    for network in networks:
        name, _, width = network.rpartition("-")
        for case, what in CASES.items():
            path = keep / f"{network}-{case}.json"
            model, exit_name = what.build(name, int(width))
            if not (path.exists() or print_only):
                path.write_text(json.dumps(measure(model, exit_name, MeasureOptions(warm=warm), tell=print), indent=1))
                print(path, flush=True)
            if not path.exists():
                continue
            found, told = json.loads(path.read_text()), predict(model, exit_name, known)
            off.append((bool(told.fitted), told.bytes / found["bytes"] - 1, told.time_s / found["time_s"] - 1))
            rows.append(
                {
                    "network": name,
                    "width": width,
                    "model": f"{case}, {exit_name}",
                    "layers": "fitted" if told.fitted else "calibrated",
                    "MB": f"{found['bytes'] / 1e6:.2f}",
                    "predicted MB": f"{told.bytes / 1e6:.2f} ({off[-1][1]:+.2%})",
                    "warm s": f"{found['time_s']:.2f} ({found['time_s_range'][0]:.2f} to {found['time_s_range'][1]:.2f})",
                    "predicted s": f"{told.time_s:.2f} ({off[-1][2]:+.0%})",
                    "others' cores": "not known" if found["others_cores"] is None else f"{found['others_cores']:.2f}",
                }
            )
    print(tabulate(rows, headers="keys", tablefmt="pipe"))
    for is_fitted in (False, True):
        if some := [pair for fitted, *pair in off if fitted == is_fitted]:
            print(f"{'fitted' if is_fitted else 'calibrated'}: {len(some)} models, {_said(some)}")


def _said(off: Sequence[Sequence[float]]) -> str:
    sizes, seconds = ([abs(pair[which]) for pair in off] for which in (0, 1))
    of_bytes = f"bytes off by {statistics.median(sizes):.2%} (median; at most {max(sizes):.2%})"
    return f"{of_bytes}, seconds by {statistics.median(seconds):.0%} (at most {max(seconds):.0%})"


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,))
