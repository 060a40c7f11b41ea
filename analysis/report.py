"""What a sweep leaves for its user: tables, front and picture in the results root, all made from the records."""

import io
from dataclasses import dataclass

import pandas as pd

from analysis.figures import AXES, draw_fronts
from analysis.pareto import by_dataset
from analysis.results import layers_table, results_table
from raysp.location import Location, write_atomically
from raysp.store import DamagedFile, Store


@dataclass(frozen=True, kw_only=True)
class Report:
    """What there is."""

    table: pd.DataFrame
    """The rows of results.csv."""
    front: pd.DataFrame
    """The rows of pareto.csv."""
    layers: pd.DataFrame
    """The rows of layers.csv."""
    damaged: list[DamagedFile]
    """Records that were left out."""


def read_report(root: Location) -> Report:
    """The tables of every finished model under a results root."""
    records, damaged = Store(root=root).records()
    table = results_table(records)
    front = by_dataset(table).sort_values(["dataset", "relus", "macs", "depth"], kind="stable")
    return Report(table=table, front=front, layers=layers_table(records), damaged=damaged)


def write_report(root: Location) -> Report:
    """Write the tables and the picture for every finished model under a results root, replacing those of an earlier run.

    The picture is left out while there is no complete row.
    """
    report = read_report(root)
    table, front = report.table, report.front
    write_atomically(root / "results.csv", table.to_csv(index=False).encode())
    write_atomically(root / "layers.csv", report.layers.to_csv(index=False).encode())
    write_atomically(root / "pareto.csv", front.to_csv(index=False).encode())
    complete = table.dropna(subset=["dataset", "val_accuracy", "test_accuracy", *AXES])
    if len(complete):
        picture = io.BytesIO()
        draw_fronts(complete, {column: by_dataset(complete, costs=(column,)) for column in AXES}, picture)
        write_atomically(root / "pareto.png", picture.getvalue())
    return report
