"""Drawing the fronts, and nothing but drawing: what is drawn is computed elsewhere and passed in."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.objectives import OBJECTIVES
from analysis.pareto import GROUP

# Okabe and Ito's palette: told apart with any kind of colour vision; markers differ too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
KINDS = {
    "baseline": ("#000000", "*", "all-ReLU baseline"),
    "final": ("#0072B2", "o", "final classifier"),
    "ac": ("#D55E00", "^", "auxiliary classifier"),
}
PUBLISHED = {"SNL": "s", "DeepReDuce": "v", "SENet": "P", "AutoReP": "X"}
"""Markers of published figures, all in one grey."""
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "raysp",  # equal figures give equal files
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold a dollar
}
MANY = 2000
"""More points are one picture in an SVG, which would take long to open otherwise."""
Curves = Mapping[str, Sequence[tuple[float, float]]]


def to_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a "png" or "svg" file; equal figures give equal bytes."""
    target = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, dpi=130, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return target.getvalue()


def draw_fronts(
    points: pd.DataFrame,
    fronts: Mapping[str, pd.DataFrame],
    published: Mapping[tuple[str, str], Curves],
    accuracy: str = "val_accuracy",
) -> Figure:
    """Draw accuracy against ReLUs, MACs and depth side by side, each with its two-objective front; a row per data set and
    selection part.

    Args:
        points: as of `analysis.seeds.points_of`, at least one, none without accuracies or costs; with spread over seeds.
        fronts: for each column of a panel, the points that are non-dominated in accuracy and that column.
        published: curves to stand beside a row's points in the panel of ReLUs.
        accuracy: column that models are chosen by.
    """
    other = "test_accuracy" if accuracy == "val_accuracy" else "val_accuracy"
    with matplotlib.rc_context(STYLE):
        groups = points.groupby(list(GROUP), sort=True)
        figure = Figure(figsize=(12, 0.8 + 3.8 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), len(fronts), sharey="row", squeeze=False)
        for ((dataset, selection), rows), panels in zip(groups, grid, strict=True):
            for panel, (column, front) in zip(panels, fronts.items(), strict=True):
                mine = front[(front["dataset"] == dataset) & (front["selection"] == selection)]
                _draw_panel(panel, column, rows, mine, accuracy, other)
                if column == "relus":
                    _draw_published(panel, published.get((str(dataset), str(selection)), {}))
            flattered = ",\nselected on the test part" if selection == "test" or accuracy == "test_accuracy" else ""
            panels[0].set_ylabel(f"{OBJECTIVES[accuracy].label}\non {dataset}{flattered}")
        _legend(figure, grid.flat)
    return figure


def _draw_panel(panel: Axes, column: str, points: pd.DataFrame, front: pd.DataFrame, accuracy: str, other: str) -> None:
    front = front.sort_values([column, accuracy])
    x = front[column].astype(float)
    panel.step(x, front[accuracy], where="post", color="0.55", linewidth=1.4, zorder=1, label="front")
    kind = points["exit"].where(points["exit"] == "final", "ac").mask(points["mask_method"] == "none", "baseline")
    for name, (color, marker, title) in KINDS.items():
        rows = points[kind == name]
        if len(rows):
            size = 130 if marker == "*" else 38
            x_of = rows[column].astype(float)
            panel.scatter(
                x_of, rows[accuracy], s=size, c=color, marker=marker, label=title, zorder=3, rasterized=len(points) > MANY
            )
            several = rows[rows["seeds"] > 1]
            if len(several):
                panel.errorbar(
                    several[column].astype(float), several[accuracy], yerr=several[f"{accuracy}_std"], fmt="none", ecolor=color,
                    elinewidth=1, capsize=2, alpha=0.6, zorder=2, label="± standard deviation over seeds",
                )  # fmt: skip
    panel.scatter(
        x, front[other], s=38, facecolors="none", edgecolors="0.35", marker="D", zorder=2,
        label=f"the front's {OBJECTIVES[other].label.removesuffix(' (%)')}",
    )  # fmt: skip
    panel.set_xlabel(OBJECTIVES[column].label)
    panel.grid(alpha=0.25)
    panel.margins(0.08)
    scale_axis(panel, column, points[column].dropna().astype(float))


def scale_axis(panel: Axes, column: str, values: "pd.Series[float]") -> None:
    """Give the x axis the scale and the ticks of an objective."""
    if not OBJECTIVES[column].is_log:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return
    positive = values > 0
    if positive.all():
        panel.set_xscale("log")
        few = values.max() < 30 * values.min()
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0, 3.0)))
    elif positive.any():  # a network may be left without any ReLU, for which a plain logarithm has no place
        panel.set_xscale("symlog", linthresh=values[positive].min())
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _draw_published(panel: Axes, curves: Curves) -> None:
    for name, curve in curves.items():
        relus, accuracies = zip(*curve, strict=True)
        panel.plot(
            relus, accuracies, color="0.6", marker=PUBLISHED[name], markersize=5, linewidth=0.8, linestyle=":", zorder=0,
            label=f"{name}, as published (test)",
        )  # fmt: skip


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for panel in panels:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
