"""Drawing the paper's figures, and how a sweep's front grows; nothing is computed here."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import PALETTE, STYLE
from analysis.objectives import OBJECTIVES
from analysis.pareto import GROUP
from analysis.spending import Spending
from analysis.tables import number

METRICS = {"relus": "ReLUs", "macs": "MACs", "depth": "depth", "test_accuracy": "test accuracy (%)"}
HATCHES = ("", "//", "..", "xx")
MARKERS = "osv^DPX*"


def draw_figure1(models: pd.DataFrame) -> Figure:
    """Fig. 1: every metric of four models as a share of its largest; from `analysis.paper.figure1`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        panel = figure.subplots()
        width = 0.8 / len(models)
        for n, row in enumerate(models.to_dict("records")):
            x = np.arange(len(METRICS)) + (n - (len(models) - 1) / 2) * width
            shares = [row[metric] for metric in METRICS]
            panel.bar(x, shares, width * 0.94, color=PALETTE[n], hatch=HATCHES[n], edgecolor="white", label=row["model"])
            for place, share, metric in zip(x, shares, METRICS, strict=True):
                panel.annotate(_short(metric, row[f"{metric}_value"]), (place, share), (0, 2), textcoords="offset points",
                               ha="center", va="bottom", fontsize=7.5)  # fmt: skip
        panel.set_xticks(range(len(METRICS)), METRICS.values())
        panel.set_ylabel("share of the largest value")
        panel.set_ylim(0, 1.1)
        panel.set_title(models["what"].iloc[0], fontsize=10)
        figure.legend(loc="outside lower center", ncols=len(models), frameon=False)
    return figure


def draw_figure2(lines: pd.DataFrame, title: str) -> Figure:
    """Fig. 2: the share of its ReLUs that each layer keeps, a line per mask; from `analysis.paper.figure2a` or `figure2b`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        panel = figure.subplots()
        layers: Sequence[str] = list(dict.fromkeys(lines["layer"]))
        for n, (name, rows) in enumerate(lines.groupby("line", sort=False)):
            color, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
            panel.plot(rows["layer"], 100 * rows["d"], color=color, marker=marker, label=name)
        panel.set_xticks(range(len(layers)), [_layer(name) for name in layers], rotation=45, ha="right", fontsize=8)
        panel.set_xlabel("ReLU layer (stage.block, inner or after the addition)")
        panel.set_ylabel("ReLUs kept, d (% of the layer)")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.set_title(f"{title}: {lines['what'].iloc[0]}", fontsize=10)
        panel.legend(frameon=False)
    return figure


def draw_growth(sweeps: Sequence[Spending], objectives: Sequence[str]) -> Figure:
    """The front's hypervolume over the device-hours spent, a line per sweep, a panel per data set and selection part."""
    grown = [(sweep, group, rows) for sweep in sweeps for group, rows in sweep.growth.groupby(list(GROUP))]
    groups = sorted({group for _, group, _ in grown})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.6 + 3.4 * len(groups)), layout="constrained")
        for panel, group in zip(figure.subplots(len(groups), squeeze=False).flat, groups, strict=True):
            mine = [(sweep, rows) for sweep, of, rows in grown if of == group]
            for n, (sweep, rows) in enumerate(mine):
                color, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
                panel.plot(
                    rows["device_hours"], rows["hypervolume"], drawstyle="steps-post", color=color, marker=marker, markersize=4,
                    label=f"{sweep.manifest.name} {sweep.manifest.id}",
                )  # fmt: skip
            panel.set_xlabel("device-hours of training (GPUs, or workers on CPUs)")
            panel.set_ylabel(f"hypervolume on {group[0]}")
            corner = mine[0][0].references[group]  # all sweeps of a group share it
            told = ", ".join(f"{OBJECTIVES[o].short} {number(OBJECTIVES[o], corner[o])}" for o in objectives)
            panel.set_title(f"reference point: {told}", fontsize=9)
            panel.grid(alpha=0.25)
            panel.set_xlim(left=0)
            panel.legend(frameon=False, fontsize=8)
    return figure


def _short(metric: str, value: float) -> str:
    if metric == "test_accuracy":
        return f"{value:.1f}"
    if metric == "depth":
        return f"{value:.3g}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def _layer(name: str) -> str:
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "stages" and parts[1].isdigit() and parts[2].isdigit():
        return f"{int(parts[1]) + 1}.{int(parts[2]) + 1} {parts[3].removesuffix('_relu').replace('outer', 'add')}"
    return name
