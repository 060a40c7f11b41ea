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

from analysis.classes import Change
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
NAMED = 20
"""Up to so many classes each bar has its name; of more, those that lost most are named."""
LISTED = 5
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


def draw_classes(changes: Sequence[Change]) -> Figure:
    """Draw what each class lost or gained against the all-ReLU network: a panel per model, its classes from the largest loss on.

    Args:
        changes: at least one.
    """
    with matplotlib.rc_context(STYLE):
        columns = 2 if len(changes) == 4 else min(3, len(changes))
        rows = -(-len(changes) // columns)
        figure = Figure(figsize=(4.2 * columns if columns > 1 else 6.5, 0.6 + 3.4 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        several = len({(change.point["dataset"], change.point["selection"]) for change in changes}) > 1
        for panel, change in zip(panels.flat, changes, strict=False):
            _draw_change(panel, change, where=f"{change.point['dataset']}, " if several else "")
        for panel in panels.flat[len(changes) :]:
            panel.set_axis_off()
        for first in panels[:, 0]:
            first.set_ylabel("change in test accuracy\n(points)")
        _legend(figure, panels.flat)
    return figure


def _draw_change(panel: Axes, change: Change, where: str) -> None:
    place = range(len(change.points))
    colors = [PALETTE[1] if points < 0 else PALETTE[0] for points in change.points]
    panel.bar(place, change.points, color=colors, width=0.8 if len(place) <= NAMED else 1.0)
    panel.axhline(0.0, color="0.3", linewidth=0.8)
    panel.axhline(change.mean, color="0.3", linewidth=1.2, linestyle="--", label="over all test images")
    if len(place) <= NAMED:
        long = max(map(len, change.names)) > 2
        panel.set_xticks(place, [_cut(name) for name in change.names], rotation=90 if long else 0)
        panel.tick_params(axis="x", length=0)
    else:
        panel.set_xticks([])
        panel.set_xlabel(f"{len(place)} classes, those that lost most first")
        lost = [f"{_cut(name)} {points:+.1f}" for name, points in zip(change.names, change.points, strict=True)]
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
        said = "\n".join(["lost most:", *lost[:LISTED]])
        panel.text(0.97, 0.04, said, transform=panel.transAxes, ha="right", va="bottom", fontsize=9, bbox=box)
    panel.margins(x=0.01)
    panel.grid(axis="y", alpha=0.25)
    panel.set_axisbelow(True)
    point = change.point
    relus = EngFormatter(sep="")(float(point["relus"]))
    said = f"{where}{relus} ReLUs, {point['exit']}" + (f", {point['seeds']} seeds" if point["seeds"] > 1 else "")
    said += f" ({change.role})" if change.role else ""
    panel.set_title(f"{said}\n{str(point['key'])[:12]}; one image is {change.image_points:.2g} % of a class", fontsize=9.5)


def _cut(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for panel in panels:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
