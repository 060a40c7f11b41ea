"""Drawing, and nothing but drawing: what is drawn is computed elsewhere and passed in."""

from collections.abc import Iterable
from typing import IO

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

AXES = {"relus": "ReLUs per image", "macs": "MACs per image", "depth": "depth (convolutions)"}
# Okabe and Ito's palette: told apart with any kind of colour vision; markers differ too.
KINDS = {
    "baseline": ("#000000", "*", "all-ReLU baseline, validation"),
    "final": ("#0072B2", "o", "final classifier, validation"),
    "ac": ("#D55E00", "^", "auxiliary classifier, validation"),
}


def draw_fronts(table: pd.DataFrame, fronts: dict[str, pd.DataFrame], target: IO[bytes]) -> None:
    """Draw accuracy against ReLUs, MACs and depth side by side, each with its two-objective front; a row per data set and
    selection part.

    Args:
        table: rows of a results table, at least one, none without accuracy or costs.
        fronts: for each column of `AXES`, the rows that are non-dominated in accuracy and that column.
        target: takes the PNG.
    """
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        groups = table.groupby(["dataset", "selection"], sort=True)
        figure = Figure(figsize=(12, 0.6 + 3.8 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), len(AXES), sharey="row", squeeze=False)
        for ((dataset, selection), rows), panels in zip(groups, grid, strict=True):
            of_group = {c: f[(f["dataset"] == dataset) & (f["selection"] == selection)] for c, f in fronts.items()}
            _draw_row(panels, rows, of_group)
            flattered = ",\nselected on the test part" if selection == "test" else ""
            panels[0].set_ylabel(f"accuracy on {dataset} (%){flattered}")
        handles: dict[str, Artist] = {}
        for panel in grid.flat:
            handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(target, dpi=130, format="png")


def _draw_row(panels: Iterable[Axes], table: pd.DataFrame, fronts: dict[str, pd.DataFrame]) -> None:
    for panel, (column, label) in zip(panels, AXES.items(), strict=True):
        front = fronts[column].sort_values([column, "val_accuracy"])
        panel.step(front[column], front["val_accuracy"], where="post", color="0.55", linewidth=1.4, zorder=1, label="front")
        kind = table["exit"].where(table["exit"] == "final", "ac").mask(table["mask_method"] == "none", "baseline")
        for name, (color, marker, title) in KINDS.items():
            rows = table[kind == name]
            if len(rows):
                size = 130 if marker == "*" else 38
                panel.scatter(rows[column], rows["val_accuracy"], s=size, c=color, marker=marker, label=title, zorder=3)
        panel.scatter(
            front[column], front["test_accuracy"], s=38, facecolors="none", edgecolors="0.35", marker="D", zorder=2,
            label="models of the front on the test part",
        )  # fmt: skip
        panel.set_xlabel(label)
        panel.grid(alpha=0.25)
        panel.margins(0.08)
        if column == "depth":
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            continue
        positive = table[column] > 0
        if positive.all():
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        elif positive.any():  # a network may be left without any ReLU, for which a plain logarithm has no place
            panel.set_xscale("symlog", linthresh=table.loc[positive, column].min())
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(NullFormatter())
