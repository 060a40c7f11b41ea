"""What `raysp report` does and prints, once its flags are known to be good."""

import os
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Drawn

from analysis.objectives import ACCURACIES, OBJECTIVES, chosen
from analysis.protocols import chosen_protocols
from analysis.records import check_root
from analysis.report.answer import ESTIMATES, FRONT, QUALIFIES, Question, Report, read_report, save_report, tables_of
from analysis.report.flags import ReportFlags, read_reference
from analysis.spending import STATES
from analysis.tables import Table, volumes_of
from raysp.latency.known import read_calibrations
from raysp.latency.links import parse_link
from raysp.planning.weighing import OF_LINK, over_link, seconds_column
from raysp.store.location import Location, exists, locate
from raysp.store.records import RECORD
from raysp.store.tensor_files import UNREADABLE


def question_of(flags: ReportFlags) -> Question:
    """What the flags ask. Raises ValueError."""
    chosen(flags.costs)
    for name in flags.costs:
        if name in ACCURACIES:
            others = ", ".join(column for column in OBJECTIVES if column not in ACCURACIES)
            raise ValueError(f"--costs {name}; expected what stands beside the accuracy that --selection names: {others}")
    accuracy = f"{flags.selection}_accuracy"
    link = None if flags.link is None else parse_link(flags.link)
    if OF_LINK in flags.costs and link is None:
        raise ValueError(f"--costs {OF_LINK} without --link; expected one, such as 100mbit,20ms")
    costs = flags.costs if link is None else over_link(flags.costs, link)
    calibrations = read_calibrations([locate(path) for path in flags.calibration]) if flags.calibration else None
    return Question(
        accuracy=accuracy,
        costs=costs,
        limits=flags.limits(seconds_column(link)),
        reference=read_reference(flags.reference, (accuracy, *costs)),
        link=link,
        calibrations=calibrations,
        protocols=() if flags.protocols is None else chosen_protocols(flags.protocols),
    )


def run(flags: ReportFlags, console: Console) -> int:
    """Write the report that was asked for, and print what it says; returns the exit status. Raises ValueError and OSError."""
    question = question_of(flags)
    roots = list(dict.fromkeys(locate(run) for run in flags.runs))
    for root in roots:
        check_root(root)
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
            if any(error.path.name == RECORD and UNREADABLE not in error.reason for error in runs.damaged):
                console.print("[dim]Give the sweep's command again: it sets damaged records aside, and makes them anew.[/]")
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
        meant = next((f", such as {up}" for root in roots for up in root.parents[:2] if exists(up / "stages")), "")
        raise ValueError(f"no finished model in {where}{left_out}; expected a directory that a sweep has written to{meant}")


def _check_out(out: Location) -> None:
    if isinstance(out, Path) and (out == Path(out.anchor) or (out.exists() and not out.is_dir())):
        raise ValueError(f"--out {out} is no directory of its own; give another")
    there = next((path for path in (out, *out.parents) if path.exists()), None) if isinstance(out, Path) else None
    if there is not None and not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{out} can't be written: no permission in {there}; give another directory with --out")


def _print(report: Report, out: Location, console: Console) -> None:
    if report.question.limits and report.points.empty:
        console.print("No model is finished yet, so that none meets the limits.")
    sections = tables_of(report)
    for table in (*sections.get(QUALIFIES if report.found else FRONT, []), *sections.get(ESTIMATES, [])):
        _print_table(table, console)
    if report.question.names_predicted:
        for note in report.foretold.notes:
            console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    if report.code_note:
        console.print(f"[dim]{escape(report.code_note)}[/]", soft_wrap=True)
    states = [sweep.lines.iloc[-1] for sweep in report.sweeps]
    for sweep, line in zip(report.sweeps, states, strict=True):
        said = ", ".join(f"{line[name]} {name}" for name in STATES if line[name])
        spent = f"{line['device_hours']:.3g} device-hours"
        name = f"{escape(sweep.manifest.name)} {sweep.manifest.id}"
        console.print(f"sweep {name}: {said} of {line['planned']} stages, {spent}")
        for volume in volumes_of(sweep):
            console.print(f"  {escape(volume)}", soft_wrap=True)
    console.print(f"{len(report.points)} models of {len(report.table)} rows: {escape(str(out / 'report.html'))}", soft_wrap=True)


def _print_table(table: Table, console: Console) -> None:
    console.print(escape(table.title), style="italic", soft_wrap=True)  # as the table's own title it would fold at its width
    drawn = Drawn(*table.headings, box=None, pad_edge=False)
    for column in drawn.columns:
        column.overflow = "fold"  # a narrow terminal gets two lines, not half a number
    for row in table.cells:
        drawn.add_row(*map(escape, row))
    console.print(drawn)
    if table.note:
        console.print(f"[dim]{escape(table.note)}[/]", soft_wrap=True)
