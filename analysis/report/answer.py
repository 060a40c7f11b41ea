"""From the records of any number of sweeps to the answer "which model should I deploy?", in tables, pictures and one page.

Owns the order of things and the files' names: results.csv and .parquet, layers.csv, pareto.csv, the figures as PNG and SVG,
tables.md and .tex, report.html. Contract: reads any results directory, also while a sweep runs, and writes to one directory
alone, each file as a whole.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import paper
from analysis.classes import changes_of
from analysis.figures import draw_classes, draw_fronts, to_bytes
from analysis.objectives import ACCURACIES, BY_CLASS, OBJECTIVES, told
from analysis.origins import code_note, code_now
from analysis.page import build_page
from analysis.paper_figures import draw_figure1, draw_figure2, draw_growth
from analysis.pareto import GROUP, Found, best_under, front_of_each_group, knee, ranks
from analysis.predictions import Foretold, foretell
from analysis.protocols import Estimated, estimate_points, side_by_side
from analysis.published import published_beside
from analysis.records import Runs, read_runs
from analysis.results import layers_table, results_table
from analysis.seeds import points_of
from analysis.spending import Spending, spending_of
from analysis.tables import (
    ESCAPED,
    Table,
    front_tables,
    latex,
    markdown,
    measured_table,
    models_table,
    paper_table,
    predicted_table,
    protocol_tables,
    spending_table,
)
from raysp.latency.known import Calibrations, packaged
from raysp.latency.links import Link
from raysp.planning.weighing import seconds_column
from raysp.store.figures import COSTS
from raysp.store.location import Location, write_atomically
from raysp.store.tensor_files import DamagedFile

QUALIFIES = "What qualifies"
FRONT = "The front in numbers"
ESTIMATES = "Estimates by protocol"
PREDICTION = "Predicted private inference"
MEASURED = "Measured private inference"
"""Sections; the command prints the first three."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a user wants to know."""

    accuracy: str = "val_accuracy"
    """By which models are chosen."""
    costs: tuple[str, ...] = COSTS
    """What is to be small, or to be large beside it (`OBJECTIVES` says which)."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Per objective the least accuracy, or the largest cost."""
    reference: Mapping[str, float] = field(default_factory=dict)
    """Coordinates of the hypervolume's reference point, by objective; the others are `analysis.pareto.reference_point`'s."""
    link: Link | None = None
    """A network between the parties, for predicted costs, besides LAN and WAN."""
    calibrations: Calibrations | None = None
    """What they are predicted by; None takes those of the package."""
    protocols: tuple[str, ...] = ()
    """Of `analysis.protocols.PROTOCOLS`: what the models would take under each; none shows no estimates."""

    @property
    def names_predicted(self) -> bool:
        """Whether predicted costs were asked for."""
        asked = any(name.startswith("pred_") for name in (*self.costs, *self.limits))
        return asked or self.link is not None or self.calibrations is not None

    @property
    def shown(self) -> tuple[str, ...]:
        """Costs that tables of models show."""
        more = (seconds_column(self.link), "pred_bytes") if self.names_predicted else ()
        return tuple(dict.fromkeys((*self.costs, *self.limits, *more)))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Accuracy, and what stands beside it."""
        return (self.accuracy, *self.costs)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What there is."""

    runs: Runs
    """The records."""
    question: Question
    table: pd.DataFrame
    """The rows of results.csv."""
    points: pd.DataFrame
    """One row per configuration and exit, over its seeds."""
    front: pd.DataFrame
    """The rows of pareto.csv."""
    layers: pd.DataFrame
    """The rows of layers.csv."""
    sweeps: list[Spending]
    """Every sweep's plan against what was spent."""
    foretold: Foretold
    """Predicted costs, and what must be said beside them."""
    found: dict[Any, Found]
    """What meets the limits, if there are any, by group of `GROUP`."""
    estimated: Estimated
    """What each of the points would take under the question's protocols."""
    code_note: str
    """Of records by other code than this (`analysis.origins.code_note`)."""

    @property
    def damaged(self) -> list[DamagedFile]:
        """Records that were left out."""
        return self.runs.damaged


def read_report(roots: Sequence[Location], question: Question | None = None) -> Report:
    """Everything that is computed of every finished model under some results roots.

    Raises:
        ValueError: a root is no directory, the question is about what no model has, or its calibrations are of other models.
    """
    question = question or Question()
    runs = read_runs(roots)
    foretold = foretell(runs, question.calibrations or packaged(), question.link, is_own=question.calibrations is not None)
    table = results_table(runs.records, runs.measurements, foretold.columns)
    limits = question.limits if len(table) else ()  # while nothing is finished, nothing meets them
    for name in (*question.objectives, *limits):
        if name not in table or (name in BY_CLASS and len(table) and table[name].isna().all()):
            why = " ".join(("", *foretold.notes)) if name.startswith("pred_") else ""
            raise ValueError(f"no model here has {name}, which it would be compared by; leave that out.{why}".rstrip("."))
    points = points_of(table, question.accuracy)
    front = front_of_each_group(points, question.objectives).sort_values([*GROUP[:1], *COSTS], kind="stable")
    sweeps = [spending_of(manifest, runs, table, question.objectives, question.reference) for manifest in runs.manifests]
    groups = points.groupby(list(GROUP)) if question.limits else ()
    found = {group: best_under(rows, question.limits, question.accuracy) for group, rows in groups}
    return Report(
        runs=runs,
        question=question,
        table=table,
        points=points,
        front=front,
        layers=layers_table(runs.records),
        sweeps=sweeps,
        foretold=foretold,
        found=found,
        estimated=estimate_points(points, runs.records, question.protocols),
        code_note=code_note(runs.records, code_now()),
    )


def write_report(roots: Sequence[Location], out: Location, question: Question | None = None) -> Report:
    """Read a report (`read_report`) and save it (`save_report`)."""
    report = read_report(roots, question)
    save_report(report, roots, out)
    return report


def save_report(report: Report, roots: Sequence[Location], out: Location) -> None:
    """Write tables, pictures and page, replacing those of an earlier time.

    Pictures are left out while there is nothing to draw.

    Args:
        report: of these roots.
        roots: results directories; nothing of theirs is changed.
        out: where to write; may be one of them.
    """
    if isinstance(out, Path):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.csv", report.table.to_csv(index=False).encode())
    parquet = io.BytesIO()
    # A column's values need one type there.
    texts = {name: "string" for name in report.table if report.table[name].dtype == object}
    report.table.astype(texts).to_parquet(parquet, index=False)
    write_atomically(out / "results.parquet", parquet.getvalue())
    write_atomically(out / "layers.csv", report.layers.to_csv(index=False).encode())
    front = report.front.drop(columns=["seed_list", "key_list"])
    write_atomically(out / "pareto.csv", front.to_csv(index=False).encode())
    pictures, still = [], None
    for name, (title, figure) in figures_of(report).items():
        svg = to_bytes(figure, "svg")
        write_atomically(out / f"{name}.png", to_bytes(figure, "png"))
        write_atomically(out / f"{name}.svg", svg)
        if name == "pareto":  # the page has that one to touch
            still = (title, svg)
        else:
            pictures.append((title, svg))
    sections = tables_of(report)
    tables = [table for section in sections.values() for table in section]
    write_atomically(out / "tables.md", markdown(tables).encode(errors=ESCAPED))
    write_atomically(out / "tables.tex", latex(tables).encode(errors=ESCAPED))
    page = build_page(
        runs=report.runs,
        points=report.points,
        ranks=ranks(report.points, report.question.objectives),
        accuracy=report.question.accuracy,
        foretold=report.foretold,
        tables=sections,
        figures=pictures,
        still=still,
        failures=list(dict.fromkeys(line for sweep in report.sweeps for line in sweep.failed)),
        skipped=list(dict.fromkeys(line for sweep in report.sweeps for line in sweep.skipped)),
        note=report.code_note,
        title="raysp: " + ", ".join(dict.fromkeys(str(root.name) for root in roots)),
    )
    write_atomically(out / "report.html", page)


def figures_of(report: Report) -> dict[str, tuple[str, Figure]]:
    """The figures that there is something to draw for: title and figure by file name."""
    found: dict[str, tuple[str, Figure]] = {}
    question, points = report.question, report.points
    complete = points.dropna(subset=["dataset", *ACCURACIES, *question.costs])
    if len(complete):
        fronts = {cost: front_of_each_group(complete, (question.accuracy, cost)) for cost in question.costs}
        published = published_beside(complete)
        title = f"Accuracy against {', '.join(OBJECTIVES[cost].short for cost in question.costs)}"
        found["pareto"] = (title, draw_fronts(complete, fronts, published, question.accuracy))
    if changes := changes_of(points, report.front, report.found, report.runs.records, question.objectives):
        found["classes"] = ("What each class lost or gained against the all-ReLU network", draw_classes(changes))
    if len(bars := paper.figure1(points)):
        found["fig1"] = ("Fig. 1: metrics as shares of their largest value", draw_figure1(bars))
    if len(lines := paper.figure2a(report.layers)):
        found["fig2a"] = ("Fig. 2a: ReLUs kept by layer, SENet and SNL", draw_figure2(lines, "SENet and SNL"))
    if len(lines := paper.figure2b(report.layers)):
        found["fig2b"] = ("Fig. 2b: ReLUs kept by layer and budget", draw_figure2(lines, "SENet by budget"))
    if any(len(sweep.growth) for sweep in report.sweeps):
        figure = draw_growth([sweep for sweep in report.sweeps if len(sweep.growth)], question.objectives)
        found["growth"] = ("Hypervolume of the front over device-hours", figure)
    return found


def tables_of(report: Report) -> dict[str, list[Table]]:
    """All tables by section."""
    question, points = report.question, report.points
    sections: dict[str, list[Table]] = {}
    if report.found:
        sections[QUALIFIES] = found_tables(report)
    if len(report.front):
        sections[FRONT] = front_tables(report.front, question.objectives, question.shown)
        knees = [knee(rows, question.objectives) for _, rows in report.front.groupby(list(GROUP))]
        rows = points.loc[[row.name for row in knees if row is not None]]
        note = "The front's model that is nearest to the best of everything, each objective scaled to its range on the front."
        sections[FRONT].append(models_table("Knee", rows, note, question.shown))
        if question.protocols:
            compared = side_by_side(points, report.front, report.estimated, question.accuracy)
            sections[ESTIMATES] = protocol_tables(compared, question.accuracy)
    printed = [("Table 1: gated branching", paper.table1(points)), ("Table 2: auxiliary classifiers", paper.table2(points))]
    beside = [paper_table(title, rows) for title, rows in printed if rows["accuracy"].notna().any()]
    if beside:
        sections["The paper's tables"] = beside
    if len(report.front) and report.foretold.notes:  # among them why nothing is predicted, where that is so
        sections[PREDICTION] = [predicted_table(report.front, report.foretold.notes)]
    if any(report.runs.measurements.values()):
        sections[MEASURED] = [measured_table(report.table, report.runs.measurements)]
    if report.sweeps:
        sections["Sweeps"] = [spending_table(sweep) for sweep in report.sweeps]
    return sections


def found_tables(report: Report) -> list[Table]:
    """What meets the limits, or comes nearest, in each group."""
    question = report.question
    asked = [(OBJECTIVES[column], limit) for column, limit in question.limits.items()]
    said = ", ".join(f"{o.short} {'at least' if o.maximise else 'at most'} {told(limit)}" for o, limit in asked)
    tables = []
    for (dataset, selection), found in report.found.items():
        where = f" on {dataset}, selected on {selection}" if len(report.found) > 1 else ""
        none = found.rows.empty
        title = f"{'None qualifies' if none else f'{len(found.rows)} qualify'}{where}: {said}"
        note = "The nearest, with what they miss." if none else "Most accurate first."
        tables.append(models_table(title, found.nearest if none else found.rows, note, question.shown))
    return tables
