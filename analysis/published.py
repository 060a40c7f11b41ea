"""Figures that others have printed, to stand beside ours and never among them.

Accuracies in percent at ReLUs per image. Tables 1 and 2 are those of "Making Models Shallow Again" (CVPR-W 2023); SENet (ICLR
2023, arXiv 2301.09254) as that paper prints it; SNL (ICML 2022) and DeepReDuce (ICML 2021) read off SNL's plot (CIFAR-100 to 0.05
points); AutoReP (ICCV 2023) replaces ReLUs by polynomials, where the others put the identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.pareto import GROUP

MODEL, WIDTH, IMAGE_SIZE = "resnet18", 64, 32
"""The network that all published curves here are of."""


Curve = list[tuple[float, float]]


def _curve(text: str) -> Curve:
    return [(1000 * float(relus), float(accuracy)) for relus, accuracy in (pair.split(":") for pair in text.split())]


CURVES: Mapping[str, Mapping[str, Curve]] = {
    "cifar100": {
        "SNL": _curve(
            "12.9:66.54 14.9:67.17 24.9:70.05 29.8:70.19 40:72.34 49.3:73.75 59.9:74.85 69.6:75.30 78.9:75.72 99.8:75.94 "
            "120:76.36 150:77.35 180:77.64 248:77.69"
        ),
        "DeepReDuce": _curve("12.3:64.98 28.6:68.67 50.3:69.56 57.2:72.67 114:74.72 197:75.51 229:76.21"),
        "SENet": _curve("24.9:70.59 49.6:75.28"),
        "AutoReP": _curve("12.9:74.92"),
    },
    "cifar10": {
        "SNL": _curve("12.9:88.24 25:90.88 49.5:92.28 79:93.17 100:93.50 150:94.27 300:95.07"),
        "DeepReDuce": _curve("36:88.5 70:90.0 80:90.5 114:92.7 147:93.2 222:94.1"),
        "SENet": _curve("82:93.05"),
        "AutoReP": _curve("12.9:94.31"),
    },
}
"""By data set and method: ReLUs per image, test accuracy."""


def published_beside(points: pd.DataFrame) -> dict[tuple[str, str], Mapping[str, Curve]]:
    """The curves of each group of `GROUP` that has models of the network that the curves are of."""
    alike = points[(points["model"] == MODEL) & (points["width"] == WIDTH) & (points["image_size"] == IMAGE_SIZE)]
    groups = alike[list(GROUP)].drop_duplicates().itertuples(index=False)
    return {(dataset, selection): CURVES[dataset] for dataset, selection in groups if dataset in CURVES}


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One model of Table 1 or 2."""

    dataset: str
    model: str
    d_th: float
    """Of Table 2, whose thresholds aren't printed: ours."""
    budget: int
    """Of Table 2, whose budgets aren't printed: what its reductions follow from."""
    exit: str
    """"final", or the auxiliary classifier's."""
    gated: bool
    has_ac: bool
    relus: float | None
    """As printed; Table 2 prints the reduction alone."""
    accuracy: float
    depth: int
    mac_saving: float
    relu_reduction: float


def _table1(dataset: str, model: str, d_th: float, without: tuple[float, ...], gated: tuple[float, ...]) -> list[PublishedRow]:
    rows = []
    for is_gated, (relus, accuracy, depth, macs, reduction) in ((False, without), (True, gated)):
        rows.append(
            PublishedRow(
                dataset=dataset, model=model, d_th=d_th, budget=round(1000 * without[0]),
                exit="final", gated=is_gated, has_ac=False, relus=1000 * relus, accuracy=accuracy,
                depth=round(depth), mac_saving=macs, relu_reduction=reduction,
            )
        )  # fmt: skip
    return rows


TABLE1 = [
    *_table1("cifar10", "resnet18", 0.1, (82, 93.05, 16, 1, 6.8), (76.8, 93.05, 13, 1.17, 7.3)),
    *_table1("cifar100", "resnet18", 0.05, (24.9, 70.59, 16, 1, 21.8), (21.1, 69.10, 12, 1.3, 26.4)),
    *_table1("cifar100", "resnet18", 0.05, (49.6, 75.28, 16, 1, 11.2), (47.4, 74.62, 14, 1.16, 11.8)),
    *_table1("cifar100", "wrn22-8", 0.1, (240, 79.81, 18, 1, 5.8), (221, 79.62, 15, 1.15, 6.3)),
]
"""With and without gated branching (its printed 21.8x for 24.9k ReLUs is a slip: it is 22.4x)."""


def _table2(dataset: str, d_th: float, budget: int, exit_name: str, figures: tuple[float, ...]) -> PublishedRow:
    accuracy, reduction, macs, depth = figures
    return PublishedRow(
        dataset=dataset, model="resnet18", d_th=d_th, budget=budget, exit=exit_name, gated=True,
        has_ac=True, relus=None, accuracy=accuracy, depth=round(depth), mac_saving=macs, relu_reduction=reduction,
    )  # fmt: skip


TABLE2 = [
    _table2("cifar10", 0.1, 150_000, "final", (95.17, 3.94, 1.15, 14)),
    _table2("cifar10", 0.1, 150_000, "ac3", (94.51, 5.07, 1.46, 10)),
    _table2("cifar100", 0.05, 100_000, "final", (78.24, 5.8, 1.15, 14)),
    _table2("cifar100", 0.05, 100_000, "ac3", (76.31, 8.5, 1.46, 10)),
]
"""With gated branching and an auxiliary classifier, at either exit."""

FULL_RELUS = {"resnet18": 557_056, "wrn22-8": 1_392_640}
"""ReLUs of the all-ReLU networks at 32x32."""
