"""What a sweep prints when it is done: its own rows, or its masks' layers, and what failed.

Owns the terminal's tables; the files are `analysis.report`'s.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.objectives import OBJECTIVES
from analysis.pareto import DEFAULT_OBJECTIVES, front_of_each_group
from analysis.report import Report
from analysis.tables import differing, number
from raysp.methods.choices import WHICH_GATED
from raysp.planning.plan import Outcome, Plan
from raysp.stages.finetune import FinetuneConfig
from raysp.stages.time_limit import TimeLimit
from raysp.store.figures import COSTS
from raysp.store.location import Location
from raysp.store.stage import Stage

MOST_ROWS = 60
"""A sweep of more rows than this prints only those on the front."""

PREDICTED_COSTS = ("pred_time_s", "pred_bytes", "pred_round_trips")
"""Columns that `TimeLimit.seconds` takes, in its order."""

MOST_MISSES = 12
"""Models that miss their limits, each named in a line."""

MOST_OF_THE_FRONT = 12
"""Rows of the front in the live table."""

SHOWN = {
    "dataset": "data",
    "selection": "selection",
    "model": "model",
    "width": "width",
    "image_size": "pixels",
    "mask_method": "mask",
    "granularity": "by",
    "mask_start": "mask start",
    "depth_price": "depth price",
    "layer_price": "layer price",
    "sensitivity": "sensitivity",
    "budget": "budget",
    "weights": "weights",
    "d_th": "d_th",
    "gate_blocks": "gates",
    "gate_loss": "gates lose",
    "max_seconds": "at most s",
    "link": "over",
    "gamma": "gamma",
    "gate_epochs": "ramp",
    "gb_init": "GB start",
    "kernel_size": "kernel",
    "ac_after": "AC",
    "ac_head": "head",
    "ac_init": "AC start",
    "ac_end": "AC end",
    "pram": "PRAM",
    "beta": "beta",
    "epochs": "epochs",
    "seed": "seed",
}
"""Columns of results.csv with their headings here; those in which a sweep's students all agree are left out."""


def print_report(report: Report, plan: Plan, root: Location | None, console: Console) -> None:
    """Print what this sweep's stages have come to.

    Args:
        report: of the whole results directory.
        plan: of this sweep.
        root: the results directory, if the report was written there.
        console: where to print.
    """
    for error in report.damaged:
        console.print(f"[yellow]left out[/] {escape(str(error))}", soft_wrap=True)
    mine = report.table[report.table["key"].isin(list(plan.stages))]
    console.print()
    if all(plan.stages[key].name == "mask" for key in plan.leaves):
        _print_layers(report.layers[report.layers["mask_key"].isin(list(plan.leaves))], console)
    else:
        _print_rows(mine, report, console)
    if (mine["selection"] == "test").any():
        console.print("[yellow]selected on the test part[/]: these accuracies flatter, and val % is test %")
    if report.question.names_predicted or any(_limit_of(stage) for stage in plan.leaves.values()):
        for note in report.foretold.notes:
            console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    missed = misses(plan, mine)
    for line in missed[:MOST_MISSES]:
        console.print(f"[yellow]limit missed[/] {escape(line)}", soft_wrap=True)
    if len(missed) > MOST_MISSES:
        console.print(f"[yellow]limit missed[/] by {len(missed) - MOST_MISSES} more")
    if root is None:
        return
    console.print(
        f"{_count(len(report.table), 'row')} in {escape(str(root / 'results.csv'))}; their front in pareto.csv, "
        f"every mask's layers in layers.csv beside it; all to look at in {escape(str(root / 'report.html'))}",
        soft_wrap=True,
    )


def misses(plan: Plan, table: pd.DataFrame) -> list[str]:
    """What must be said of finished models that take longer than they were to, by the prediction.

    Args:
        plan: of this sweep.
        table: its rows, with the predicted columns.
    """
    limits = {stage.key: (stage, limit) for stage in plan.leaves.values() if (limit := _limit_of(stage))}
    found = []
    final = table[table["exit"] == "final"].reindex(columns=["key", *PREDICTED_COSTS])
    for key, *costs in final.itertuples(index=False, name=None):
        if key in limits and (seconds := limits[key][1].seconds(*costs)) > limits[key][1].max_seconds:
            stage, limit = limits[key]
            found.append(
                f"{limit}: no choice of blocks that was found meets it; all that help are gated, and {seconds:.4g} s are "
                f"predicted ({stage.label}: {stage.note})"
            )
    return found


def _limit_of(stage: Stage) -> TimeLimit | None:
    return stage.config.time_limit if isinstance(stage.config, FinetuneConfig) else None


def front_so_far(rows: Sequence[dict[str, Any]]) -> Table:
    """The front of these rows, as far as a terminal has room: every model by itself, seeds too."""
    table = Table("front so far", "exit", "budget", "gates", "ReLUs", "MACs", "depth", "val %", box=None, pad_edge=False)
    known = pd.DataFrame(rows).reindex(
        columns=["dataset", "selection", "mask_method", "exit", "budget", *WHICH_GATED, *DEFAULT_OBJECTIVES]
    )
    front = front_of_each_group(known).sort_values(["dataset", "relus"], kind="stable")
    for row in front.head(MOST_OF_THE_FRONT).to_dict("records"):
        exit_name = "all-ReLU" if row["mask_method"] == "none" else str(row["exit"])
        budget = "-" if pd.isna(row["budget"]) else f"{row['budget']:.0f}"
        gates = "-" if pd.isna(row["d_th"]) else f"d_th {row['d_th']:g}"
        gates = gates if pd.isna(row["gate_blocks"]) else f"{row['gate_blocks']:g}"
        gates = gates if pd.isna(row["gate_loss"]) else f"lose {row['gate_loss']:g}"
        gates = gates if pd.isna(row["max_seconds"]) else f"<= {row['max_seconds']:g} s"
        costs = (f"{row['relus']:.0f}", number(OBJECTIVES["macs"], row["macs"]), f"{row['depth']:.0f}")
        table.add_row(escape(str(row["dataset"])), exit_name, budget, gates, *costs, f"{row['val_accuracy']:.2f}")
    if len(front) > MOST_OF_THE_FRONT:
        table.add_row(f"... {len(front) - MOST_OF_THE_FRONT} more")
    return table


def print_failures(outcome: Outcome, console: Console) -> None:
    """Name every stage that failed, and say how many were skipped for it, and how many are left."""
    if outcome.left:
        console.print(f"[bold red]{_count(len(outcome.left), 'stage')} left:[/] run the same command again to go on")
    if not outcome.failed:
        return
    failed, skipped = _count(len(outcome.failed), "stage"), len(outcome.skipped)
    console.print(f"[bold red]{failed} failed, {skipped} skipped because of it:[/]")
    for message in outcome.failed.values():
        console.print(f"  {escape(message)}", soft_wrap=True)


def _print_rows(rows: pd.DataFrame, report: Report, console: Console) -> None:
    costs, front = [OBJECTIVES[name] for name in report.question.costs], report.front
    # Whatever the seed.
    named = {(key, name) for keys, name in zip(front["key_list"], front["exit"], strict=True) for key in keys}
    on_front = [pair in named for pair in zip(rows["key"], rows["exit"], strict=True)]
    rows = rows.assign(front=pd.Series(on_front, rows.index, dtype=bool))
    down = ", ".join(cost.short for cost in costs)
    title = f"This sweep's models; * on the front of this results directory (accuracy up; {down} down)"
    if len(rows) > MOST_ROWS:
        rows = rows[rows["front"]]
        title = f"This sweep's models on the front of this results directory ({len(rows)} of {len(on_front)} rows)"
    console.print(title)
    telling = differing(rows, SHOWN)
    shown = [name for name in SHOWN if name == "budget" or name in telling]
    table = Table("", "exit", box=None, pad_edge=False)
    for name in shown:
        table.add_column(SHOWN[name], justify="right" if pd.api.types.is_numeric_dtype(rows[name]) else "left", no_wrap=True)
    more = [cost for cost in costs if cost.column not in COSTS]
    for title in ("ReLUs", "MACs", "depth", *(cost.short for cost in more), "val %", "test %"):
        table.add_column(title, justify="right")
    for row in rows.sort_values(["dataset", "selection", "relus", "macs", "depth"], kind="stable").to_dict("records"):
        exit_name = "all-ReLU" if row["mask_method"] == "none" else row["exit"]
        cells = ["-" if pd.isna(row[name]) else str(row[name]) for name in shown]
        numbers = (str(row["relus"]), number(OBJECTIVES["macs"], row["macs"]), str(row["depth"]))
        others = (number(cost, row[cost.column]) for cost in more)
        accuracies = (f"{row['val_accuracy']:.2f}", f"{row['test_accuracy']:.2f}")
        table.add_row("*" if row["front"] else "", exit_name, *cells, *numbers, *others, *accuracies)
    console.print(table)


def _print_layers(layers: pd.DataFrame, console: Console) -> None:
    console.print("Share of each layer's positions that keep their ReLU, in percent")
    masks = list(layers.groupby(["mask_method", "budget", "seed", "mask_key"], sort=True))
    table = Table(
        "layer", *(f"{method} {budget}, seed {seed}" for (method, budget, seed, _), _ in masks), box=None, pad_edge=False
    )
    if masks:
        for index, layer in enumerate(masks[0][1]["layer"]):
            table.add_row(layer, *(f"{100 * mask['d'].iloc[index]:.1f}" for _, mask in masks))
    console.print(table)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
