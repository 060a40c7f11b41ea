"""Tables for reading: fronts, what qualifies, the paper's tables, and what was spent; as Markdown and as LaTeX.

Owns headings, number formats and the choice of columns. What stands in the tables is computed elsewhere.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from analysis.objectives import ACCURACIES, OBJECTIVES, Objective, present
from analysis.pareto import GROUP
from analysis.protocols import CHEETAH, SideBySide
from analysis.results import MEASURED_PI, WHICH
from analysis.spending import STATES, Spending
from raysp.methods.choices import WHICH_GATED
from raysp.pi import MEANING, MeasuredFile
from raysp.store.figures import COSTS

ESCAPED = "backslashreplace"
"""How a path's bytes that are no text are written: as Python escapes them."""
ALWAYS = ("budget", "d_th", "exit")
"""Columns of a table of models that are shown even if all agree."""
WORST = ("worst_class_accuracy",)
"""What stands beside the accuracies, where it is known: a mean hides it."""
OFF_COUNTS = (*WHICH_GATED, "ac_after")
"""Columns in which nothing is a value like others."""
OF_ALL = ("dataset", "selection", "model", "width", "image_size", "precision")
"""Columns that are about all-ReLU networks as much as about students."""
SHORT = {
    "mask_method": "mask",
    "image_size": "pixels",
    "gate_blocks": "gates",
    "gate_loss": "gates lose",
    "max_seconds": "at most s",
    "gate_epochs": "ramp",
    "kernel_size": "kernel",
    "ac_after": "AC after",
    "ac_head": "head",
    "ac_init": "head's start",
    "ac_end": "head's end",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Something to be read."""

    title: str
    headings: list[str]
    cells: list[list[str]]
    note: str = ""
    """Paragraphs, with an empty line between them."""

    def markdown(self) -> str:
        """As GitHub shows it."""
        cells = [[_escape(cell) for cell in row] for row in self.cells]
        text = f"## {_escape(self.title)}\n\n" + tabulate(cells, self.headings, tablefmt="pipe", disable_numparse=True)
        return text + (f"\n\n{_escape(self.note)}\n" if self.note else "\n")

    def latex(self) -> str:
        """As a `table` environment for the package booktabs."""
        body = tabulate(self.cells, self.headings, tablefmt="latex_booktabs", disable_numparse=True)
        paragraphs = [" ".join(part.split()).removesuffix(".") for part in (self.title, *self.note.split("\n\n")) if part.strip()]
        caption = _latex(". ".join(paragraphs) + ".")
        return f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{body}\n\\end{{table}}\n"


def models_table(title: str, points: pd.DataFrame, note: str = "", costs: Sequence[str] = COSTS) -> Table:
    """A table of models: the columns in which they differ, both accuracies, the worst class, ReLUs, MACs, depth, these costs, and
    what was measured, beside what is predicted. Where all are one network on one data set, the note says which.
    """
    named = points[["model", "dataset"]].drop_duplicates()
    if len(named) == 1:
        note = f"{' on '.join(map(str, named.iloc[0]))}. {note}".rstrip()
    telling = differing(points, WHICH)
    shown = [name for name in WHICH if name not in ("configuration", "exit") and (name in ALWAYS or name in telling)]
    shown = [name for name in shown if points[name].notna().any()]
    has_seeds = bool((points["seeds"] > 1).any()) if len(points) else False
    beside = ("pred_time_s", "pred_bytes") if points.reindex(columns=["pi_time_s"])["pi_time_s"].notna().any() else ()
    objectives = [o for o in present(points) if o.column in (*ACCURACIES, *WORST, *COSTS, *costs, *MEASURED_PI, *beside)]
    extra = ["misses"] if "misses" in points else []
    headings = [SHORT.get(name, name) for name in shown] + ["exit"] + (["seeds"] if has_seeds else [])
    headings += [o.short for o in objectives] + extra + ["key"]
    cells = []
    for row in _records(points):
        line = ["-" if pd.isna(row[name]) else plain(row[name]) for name in shown]
        line.append("all-ReLU" if row["mask_method"] == "none" else str(row["exit"]))
        line += [str(row["seeds"])] if has_seeds else []
        line += [number(o, row[o.column], row.get(f"{o.column}_std")) for o in objectives]
        cells.append([*line, *(str(row[name]) for name in extra), str(row["key"])[:12]])
    return Table(title=title, headings=headings, cells=cells, note=note)


def front_tables(front: pd.DataFrame, objectives: Sequence[str], shown: Sequence[str]) -> list[Table]:
    """A table per group of `GROUP`.

    Args:
        front: non-dominated models.
        objectives: in these.
        shown: costs that get a column.
    """
    names = ", ".join(OBJECTIVES[o].label for o in objectives)
    tables = []
    for (dataset, selection), rows in front.groupby(list(GROUP), sort=True):
        on_test = selection == "test" or "test_accuracy" in objectives
        flattered = " Selected on the test part: these accuracies flatter." if on_test else ""
        if rows["seeds"].min() < rows["seeds"].max():
            flattered += " Among means over several seeds one of fewer has more of luck."
        tables.append(models_table(f"Front on {dataset}", rows, f"Non-dominated in {names}.{flattered}", shown))
    return tables


def paper_table(title: str, rows: pd.DataFrame) -> Table:
    """Table 1 or 2 from `analysis.paper`."""
    formats = {
        "accuracy": "{:.2f}", "std": "{:.2f}", "paper's accuracy": "{:.2f}", "accuracy difference": "{:+.2f}",
        "MAC saving": "{:.2f}x", "ReLU reduction": "{:.1f}x", "paper's MAC saving": "{:.2f}x",
        "paper's ReLU reduction": "{:.2f}x", "ReLUs": "{:,.0f}", "paper's ReLUs": "{:,.0f}", "budget": "{:,.0f}",
        "depth": "{:.3g}", "paper's depth": "{:.0f}", "seeds": "{:.0f}", "d_th": "{:g}",
        "beta": "{:g}", "epochs": "{:.0f}", "ramp": "{:.0f}",
    }  # fmt: skip
    used = [str(name) for name in rows if rows[name].notna().any() and not (rows[name].astype(str) == "").all()]
    cells = [["-" if pd.isna(row[n]) else formats.get(n, "{}").format(row[n]) for n in used] for row in _records(rows)]
    note = "Test accuracy in percent. The paper's figures are those that it prints."
    return Table(title=title, headings=used, cells=cells, note=note)


def predicted_table(points: pd.DataFrame, notes: Sequence[str]) -> Table:
    """What is predicted of some models, beside what was measured.

    Args:
        points: models.
        notes: what must be said of it.
    """
    objectives = [o for o in present(points) if o.column.startswith("pred_") or o.column in ("relus", "pi_time_s", "pi_bytes")]
    cells = [
        [
            str(row["exit"]),
            *(number(o, row[o.column]) for o in objectives),
            *("-" if pd.isna(row.get(name)) else str(row[name]) for name in ("pred_fitted", "pred_from")),
            str(row["key"])[:12],
        ]
        for row in _records(points)
    ]
    headings = ["exit", *(o.short for o in objectives), "fitted layers", "from", "key"]
    return Table(title="Predicted private inference of the front", headings=headings, cells=cells, note=" ".join(notes))


def protocol_tables(compared: Iterable[SideBySide], accuracy: str) -> list[Table]:
    """What fronts' models would take under several protocols, a column each.

    Args:
        compared: a front each.
        accuracy: by which models are chosen.
    """
    tables = []
    shown = [OBJECTIVES[name] for name in (accuracy, *COSTS)]
    for one in compared:
        cells = []
        for index, row in zip(one.front.index, _records(one.front), strict=True):
            line = [str(row["exit"]), *(number(o, row[o.column]) for o in shown)]
            for name, costs in one.costs.items():
                order = one.orders.get(name)
                place = f" ({order.places[index]})" if order and index in order.places else ""
                line.append(_taken(costs.loc[index]) + place)
            cells.append([*line, str(row["key"])[:12]])
        names = [f"{'pred.' if name == CHEETAH else 'est.'} {name}" for name in one.costs]
        headings = ["exit", *(o.short for o in shown), *names, "key"]
        title = f"Estimates by protocol, front on {one.dataset}"
        tables.append(Table(title=title, headings=headings, cells=cells, note="\n\n".join(one.notes)))
    return tables


def _taken(costs: "pd.Series[float]") -> str:
    """What a model takes under a protocol."""
    seconds, online, before = costs["online_s"], costs["online_bytes"], costs["offline_bytes"]
    told = []
    if pd.notna(seconds):
        told.append(f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s")
    if pd.notna(online):
        told.append(f"{number(OBJECTIVES['pred_bytes'], online)} B")
    if pd.notna(before):
        told.append(f"before {number(OBJECTIVES['pred_bytes'], before)} B")
    return ", ".join(told) or "-"


def measured_table(table: pd.DataFrame, measurements: Mapping[str, Sequence[MeasuredFile]]) -> Table:
    """What was run under private inference, of every protocol, beside what a calibration had foretold when it was measured, or
    foretells now.

    Args:
        table: the results.
        measurements: by key.
    """
    costs = {(row["key"], row["exit"]): row for row in _records(table)}
    seconds, traffic, relus = OBJECTIVES["pi_time_s"], OBJECTIVES["pi_bytes"], OBJECTIVES["relus"]
    cells = []
    for key, found in measurements.items():
        for m in found:
            row = costs.get((key, m.exit))
            expected, told_s, told_b = ["-", "-"], m.predicted_s, m.predicted_bytes
            if told_s is None and m.protocol == "cheetah" and row is not None and pd.notna(row.get("pred_time_s")):
                told_s, told_b = row["pred_time_s"], row["pred_bytes"]
            if told_s is not None and told_b is not None:
                expected = [
                    f"{number(seconds, told_s)} ({told_s / max(m.time_s, 1e-9) - 1:+.0%})",
                    f"{number(traffic, told_b)} ({told_b / max(m.bytes, 1e-9) - 1:+.1%})",
                ]
            line = [m.exit, "-" if row is None else number(relus, row["relus"]), f"{m.protocol}: {MEANING[m.protocol]}"]
            where = ["-" if m.others_cores is None else f"{m.others_cores:.2f}", m.processor or "-"]
            cells.append([*line, number(seconds, m.time_s), number(traffic, m.bytes), *expected, *where, key[:12]])
    headings = ["exit", "ReLUs", "protocol", "s", "bytes", "predicted s", "predicted bytes", "others' cores", "on", "key"]
    note = (
        "One warm image, both parties on one machine; bytes are what both send. Where other processes kept cores busy, times are "
        "too long; times of different processors can't be compared."
    )
    return Table(
        title="Measured private inference", headings=headings, cells=sorted(cells, key=lambda c: (c[2], c[-1], c[0])), note=note
    )


def spending_table(sweep: Spending) -> Table:
    """What a sweep was planned to train, and what was trained."""
    names = {"stage": "{}", **dict.fromkeys(("planned", *STATES), "{:.0f}")}
    names |= {"epochs_planned": "{:.0f}", "epochs_trained": "{:.0f}", "device_hours": "{:.3g}"}
    cells = [[form.format(row[name]) for name, form in names.items()] for row in _records(sweep.lines)]
    title = f"Sweep {sweep.manifest.name} {sweep.manifest.id}"
    headings = [name.replace("_", " ") for name in names]
    return Table(title=title, headings=headings, cells=cells, note="\n\n".join([sweep.manifest.command, *volumes_of(sweep)]))


def volumes_of(sweep: Spending) -> list[str]:
    """A sweep's hypervolume on each data set, in a sentence, with the reference point that it is measured from."""
    said = []
    for group, rows in sweep.growth.groupby(list(GROUP)):
        corner = ", ".join(f"{OBJECTIVES[c].short} {number(OBJECTIVES[c], v)}" for c, v in sweep.references[group].items())
        where = f"{group[0]}, selected on {group[1]}" if len(sweep.references) > 1 else group[0]
        volume = rows["hypervolume"].iloc[-1]
        beyond = (
            "" if volume else " No model of it is better than that in everything, so that none counts: give larger --reference."
        )
        said.append(f"Hypervolume on {where}: {volume:.4f}, reference point {corner}.{beyond}")
    return said


def number(objective: Objective, value: Any, spread: Any = None) -> str:
    """A value of an objective as people read it, with its standard deviation if there is one."""
    if pd.isna(value):
        return "-"
    value = float(value)
    if objective.maximise:
        text = f"{value:.2f}"
    elif objective.column == "depth":
        text = f"{value:.4g}"
    elif objective.is_whole or "bytes" in objective.column:
        units = ((1e9, "G"), (1e6, "M"))
        text = next((f"{value / size:.4g}{unit}" for size, unit in units if value >= size), f"{value:,.0f}")
    else:
        text = f"{value:.3g}"
    return text if spread is None or pd.isna(spread) else f"{text} ± {spread:.2f}"


def plain(value: Any) -> str:
    """A configuration's value as people read it."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def markdown(tables: Sequence[Table]) -> str:
    """One document."""
    return "\n".join(table.markdown() for table in tables) if tables else "No model is finished yet.\n"


def latex(tables: Sequence[Table]) -> str:
    """One file for LaTeX to input."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(table.latex() for table in tables)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def differing(rows: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Those of these columns that tell models apart. What only all-ReLU networks lack, or train longer for, doesn't tell."""
    students = rows[rows["mask_method"] != "none"]

    def differs(name: str) -> bool:
        values = (rows if name in OF_ALL or students.empty else students)[name].drop_duplicates()
        return len(values if name in OFF_COUNTS else values.dropna()) > 1

    return [name for name in names if differs(name)]


def _escape(cell: str) -> str:
    for mark in "\\|*_`[]":
        cell = cell.replace(mark, "\\" + mark)
    return html.escape(cell, quote=False)


_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\^{}", "_": r"\_",
    "~": r"\~{}", "%": r"\%",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
