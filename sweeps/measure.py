"""`--measure-pi`: a sweep's models under private inference, when the sweep is done.

Owns which models are measured, and in what order. Contract: one after the other, in the driver's machine, after this run has
trained what it had to and Ray has been left; a measurement that fails is told, and the rest goes on.
"""

from rich.console import Console
from rich.markup import escape

from analysis.report import Report
from raysp.pi import MeasureOptions, Protocol
from raysp.pi.machine import disturbed
from raysp.pi.stored import measure_stored
from raysp.store.location import Location
from raysp.store.records import NoLongerOwner, label_of
from sweeps.flags import Which

PROTOCOL: Protocol = "cheetah"


def measure_models(which: Which, report: Report, root: Location, console: Console) -> bool:
    """Measure what isn't measured yet of the models in a results directory.

    Args:
        which: those on the front (of a configuration's seeds the one that a front names), or every row of results.csv.
        report: of the results directory.
        root: the directory.
        console: told of each.

    Returns:
        Whether nothing failed.
    """
    rows = (
        (report.front if which == "front" else report.table)[["key", "exit", "relus"]]
        .dropna()
        .sort_values(["relus", "key", "exit"])
    )
    records = {record["key"]: record for record in report.runs.records}
    known = {(key, m.exit) for key, found in report.runs.measurements.items() for m in found if m.protocol == PROTOCOL}
    missing = [row for row in rows.to_dict("records") if (row["key"], row["exit"]) not in known]
    console.print(f"private inference: {len(rows)} models, {len(rows) - len(missing)} of them measured already")
    all_well = True
    for row in missing:
        directory = root / "stages" / label_of(records[row["key"]])
        name = f"{directory.name}, {row['exit']}, {row['relus']:.0f} ReLUs"
        try:
            _, found = measure_stored(
                directory,
                exit=row["exit"],
                options=MeasureOptions(protocol=PROTOCOL),
                tell=lambda line: console.print(escape(line), soft_wrap=True),
            )
        except NoLongerOwner:
            raise
        except Exception as error:  # whatever a model, its files or the engine have come up with
            all_well = False
            console.print(
                f"[bold red]not measured[/] {escape(name)}: {escape(str(error) or type(error).__name__)}", soft_wrap=True
            )
        else:
            figures = f"{found['time_s']:.3g} s, {found['bytes'] / 1e6:.4g} MB"
            console.print(f"[green]measured[/] {escape(name)}: {figures}", soft_wrap=True)
            if note := disturbed(found["others_cores"]):
                console.print(f"[yellow]note[/] {note}", soft_wrap=True)
    return all_well
