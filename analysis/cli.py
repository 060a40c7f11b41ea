"""`python -m analysis.report`: its flags, what it prints, its exit statuses.

Statuses: 0 written, 1 no model meets the limits (the nearest are named), 2 bad input or nothing to read, 130 interrupted.
"""

import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional, arg

from analysis.objectives import OBJECTIVES, chosen
from analysis.records import check_root
from analysis.report import FRONT, QUALIFIES, Question, Report, read_report, save_report, tables_of
from analysis.spending import STATES
from analysis.tables import Table
from raysp.store.figures import COSTS
from raysp.store.location import Location, locate

Amount = Annotated[str | None, arg(metavar="NUMBER", help_behavior_hint="")]
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([kMG]?)")


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Tables, pictures and one page of the models of one or more results directories. Sweeps may still be running."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN_DIR ...", help_behavior_hint="")]
    """Results directories or URLs: what sweeps were given as --storage."""
    out: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="(default: the results directory, if it is one)")] = None
    """Where to write. Files of an earlier report are replaced."""
    selection: Literal["val", "test"] = "val"
    """Which accuracy compares models. By the test part's it flatters: what is chosen by it can't be judged by it."""
    costs: Annotated[tuple[str, ...], arg(metavar="COLUMN ...", help_behavior_hint=f"(default: {' '.join(COSTS)})")] = COSTS
    """Columns that are to be small, for the front, its ranks, the knee and hypervolume."""
    min_accuracy: Amount = None
    """List the models that have at least this accuracy in percent, best first."""
    max_relus: Amount = None
    """... at most so many ReLUs, e.g. 50k."""
    max_macs: Amount = None
    """... at most so many MACs, e.g. 1.5M."""
    max_depth: Amount = None
    """... at most so many convolutions one after the other."""
    max_online_s: Amount = None
    """... at most this estimated online time in seconds (DELPHI's published constants over WAN; an estimate)."""
    watch: bool = False
    """Write it again whenever something has changed, until interrupted."""
    every: float = 10.0
    """Seconds between two looks with --watch."""


def main() -> None:
    """Parse, write, print, exit."""
    flags = tyro.cli(ReportFlags, prog="python -m analysis.report", config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    errors = Console(stderr=True, highlight=False)
    try:
        status = _run(flags, console)
    except KeyboardInterrupt:
        status = 130
    except (ValueError, OSError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        status = 2
    sys.exit(status)


def question_of(flags: ReportFlags) -> Question:
    """What the flags ask. Raises ValueError."""
    chosen(flags.costs)
    for name in flags.costs:
        if OBJECTIVES[name].maximise:
            small = ", ".join(column for column, objective in OBJECTIVES.items() if not objective.maximise)
            raise ValueError(f"--costs {name}; expected columns that are to be small: {small}")
    accuracy = f"{flags.selection}_accuracy"
    columns = {
        "min_accuracy": accuracy,
        "max_relus": "relus",
        "max_macs": "macs",
        "max_depth": "depth",
        "max_online_s": "est_delphi_online_wan_s",
    }
    given = {name: getattr(flags, name) for name in columns}
    limits = {columns[name]: read_amount(text, name) for name, text in given.items() if text is not None}
    return Question(accuracy=accuracy, costs=flags.costs, limits=limits)


def read_amount(text: str, name: str) -> float:
    """A number such as 70, 0.5, 50k or 1.5M. Raises ValueError naming the flag."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"--{name.replace('_', '-')} {text!r}; expected a number of at least 0, such as 70, 0.5, 50k or 1.5M")
    return float(found[1]) * UNITS[found[2]]


def _run(flags: ReportFlags, console: Console) -> int:
    if not flags.runs:
        raise ValueError("no results directory; expected one or more that sweeps were given as --storage, such as runs/quick")
    if not (math.isfinite(flags.every) and flags.every >= 1):
        raise ValueError(f"--every {flags.every:g}; expected seconds, at least 1")
    question = question_of(flags)
    roots = list(dict.fromkeys(locate(run) for run in flags.runs))
    for root in roots:
        check_root(root)
    if flags.out == "":
        raise ValueError("--out is empty; expected a directory, or leave it out")
    if flags.out is None and len(roots) > 1:
        raise ValueError(f"{len(roots)} results directories and no --out; expected --out DIR")
    out = locate(flags.out) if flags.out else roots[0]
    _check_out(out)
    seen: object = None
    while True:
        report = read_report(roots, question)
        runs = report.runs
        now = (
            set(runs.roots), runs.failures, set(map(str, runs.damaged)), [manifest.id for manifest in runs.manifests],
            runs.measurements, runs.stopped,
        )  # fmt: skip
        if now != seen:
            for error in runs.damaged:
                console.print(f"[yellow]left out[/] {escape(str(error))}", soft_wrap=True)
            if not flags.watch:
                _refuse_empty(report, roots)
            save_report(report, roots, out)
            _print(report, out, console)
        seen = now
        if not flags.watch:
            break
        time.sleep(flags.every)
    return 1 if question.limits and all(found.rows.empty for found in report.found.values()) else 0


def _refuse_empty(report: Report, roots: list[Location]) -> None:
    if report.table.empty and not report.runs.manifests:
        left_out = f" ({len(report.damaged)} records were left out)" if report.damaged else ""
        where = ", ".join(map(str, roots))
        raise ValueError(f"no finished model in {where}{left_out}; expected a directory that a sweep has written to")


def _check_out(out: Location) -> None:
    if isinstance(out, Path) and (out == Path(out.anchor) or (out.exists() and not out.is_dir())):
        raise ValueError(f"--out {out} is no directory of its own; give another")


def _print(report: Report, out: Location, console: Console) -> None:
    if report.question.limits and report.points.empty:
        console.print("No model is finished yet, so that none meets the limits.")
    for table in tables_of(report).get(QUALIFIES if report.found else FRONT, []):
        _print_table(table, console)
    states = [sweep.lines.iloc[-1] for sweep in report.sweeps]
    for sweep, line in zip(report.sweeps, states, strict=True):
        said = ", ".join(f"{line[name]} {name}" for name in STATES if line[name])
        spent = f"{line['device_hours']:.3g} device-hours"
        name = f"{escape(sweep.manifest.name)} {sweep.manifest.id}"
        console.print(f"sweep {name}: {said} of {line['planned']} stages, {spent}")
    console.print(f"{len(report.points)} models of {len(report.table)} rows: {escape(str(out / 'report.html'))}", soft_wrap=True)


def _print_table(table: Table, console: Console) -> None:
    from rich.table import Table as Drawn

    console.print(escape(table.title), style="italic", soft_wrap=True)  # as the table's own title it would fold at its width
    drawn = Drawn(*table.headings, box=None, pad_edge=False)
    for column in drawn.columns:
        column.overflow = "fold"  # a narrow terminal gets two lines, not half a number
    for row in table.cells:
        drawn.add_row(*map(escape, row))
    console.print(drawn)
    if table.note:
        console.print(f"[dim]{escape(table.note)}[/]", soft_wrap=True)
