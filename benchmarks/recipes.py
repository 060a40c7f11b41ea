"""Recipes side by side: one picture of each one's front, and a table of what it comes to and what it cost to train.

    python benchmarks/recipes.py RESULTS --out PICTURE.png --recipe "the paper's=preset == 'paper-resnet18-cifar100'" "ours=..."

A recipe is a name and a query over the columns of results.csv. Compared are models that all of a recipe's seeds have: accuracy is
the mean over them. Hypervolume is of accuracy and the costs together, each seed's by itself, with the all-ReLU network of the
recipe among the models, in percent of the box from no accuracy and a tenth more than the all-ReLU networks' costs to the best of
everything. Epochs and hours are of all stages that the recipe's models stand on, shared ones once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import pandas as pd
import tyro
from answers import markdown, spread
from matplotlib.figure import Figure
from tyro.conf import Positional, arg

from analysis.figures import PALETTE, STYLE, scale_axis, to_bytes
from analysis.objectives import OBJECTIVES
from analysis.pareto import hypervolume, pareto_front, reference_point
from analysis.records import Runs
from analysis.report import Question, read_report
from analysis.seeds import points_of
from analysis.spending import device_seconds
from raysp.store.figures import COSTS
from raysp.store.location import locate

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Rows = pd.DataFrame


def models_of(table: Rows, query: str) -> Rows:
    """The rows of a recipe: those that the query names, of models that all of its seeds have, and their all-ReLU networks.

    Raises:
        ValueError: it names none.
    """
    found = table[table["mask_method"] != "none"].query(query, engine="python")
    if found.empty:
        raise ValueError(f"no model is {query!r}; expected a query over the columns of results.csv")
    whole = found[found.groupby(["configuration", "exit"])["seed"].transform("nunique") == found["seed"].nunique()]
    own = (table["mask_method"] == "none") & table["configuration"].isin(whole["baseline"]) & table["seed"].isin(whole["seed"])
    return pd.concat([whole, table[own]])


def spent_on(keys: Sequence[str], runs: Runs) -> tuple[int, float]:
    """Epochs and device-hours of stages and of all that they stand on."""
    records = {record["key"]: record for record in runs.records}
    seen: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in seen and key in records:
            seen.add(key)
            waiting += [parent["key"] for parent in records[key]["parents"].values()]
    return sum(len(records[key]["history"]) for key in seen), sum(device_seconds(records[key]) for key in seen) / 3600


def draw(recipes: Mapping[str, Rows], costs: Sequence[str], accuracy: str) -> Figure:
    """A panel per cost: each recipe's models, and its front of accuracy against that cost alone."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(costs), 4.6), layout="constrained")
        panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for panel, cost in zip(panels, costs, strict=True):
            for (name, rows), color, marker in zip(recipes.items(), PALETTE, MARKERS, strict=False):
                points = points_of(rows, accuracy)
                front = pareto_front(points, (accuracy, cost)).sort_values(cost)
                x = points[cost].astype(float)
                spread_over = points[f"{accuracy}_std"] if points["seeds"].max() > 1 else None
                panel.errorbar(x, points[accuracy], yerr=spread_over, fmt=marker, color=color, ms=5, alpha=0.45, elinewidth=1)
                panel.step(front[cost].astype(float), front[accuracy], where="post", color=color, lw=2, label=name)
            scale_axis(panel, cost, pd.concat(recipes.values())[cost].astype(float))
            panel.set_xlabel(OBJECTIVES[cost].label)
            panel.grid(alpha=0.25)
        panels[0].set_ylabel(OBJECTIVES[accuracy].label)
        panels[0].set_ylim(top=min(panels[0].get_ylim()[1], 101))  # where a spread would reach beyond what can be
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(recipes), frameon=False)
    return figure


def main(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RESULTS ...")],
    recipe: Annotated[tuple[str, ...], arg(metavar="NAME=QUERY ...")],
    out: Path,
    costs: tuple[str, ...] = COSTS,
    accuracy: str = "val_accuracy",
) -> None:
    """Draw recipes' fronts, and print what each comes to.

    Args:
        runs: results directories.
        recipe: a name, an equals sign, and which rows are its models.
        out: the picture.
        costs: columns that are to be small.
        accuracy: column of accuracies.
    """
    report = read_report([locate(run) for run in runs], Question(accuracy=accuracy, costs=costs))
    if len(recipe) > len(MARKERS):
        raise ValueError(f"{len(recipe)} recipes; expected at most {len(MARKERS)}, which can be told apart in one picture")
    recipes = {name: models_of(report.table, query) for name, _, query in (text.partition("=") for text in recipe)}
    reference = reference_point(pd.concat(recipes.values()), (accuracy, *costs))
    lines: list[dict[str, Any]] = []
    first: dict[Any, float] = {}
    for name, rows in recipes.items():
        volumes = {seed: hypervolume(some, (accuracy, *costs), reference) for seed, some in rows.groupby("seed")}
        first = first or volumes
        students = rows[rows["mask_method"] != "none"]
        epochs, hours = spent_on(list(students["key"]), report.runs)
        lines.append(
            {
                "recipe": name,
                "seeds": students["seed"].nunique(),
                "models a seed": len(students) // students["seed"].nunique(),
                "hypervolume %": spread([100 * value for value in volumes.values()]),
                "against the first": spread([volumes[seed] / first[seed] for seed in volumes if seed in first]),
                "epochs": epochs,
                "device-hours": f"{hours:.2f}",
            }
        )
    markdown(f"Hypervolume ({OBJECTIVES[accuracy].label}; {', '.join(OBJECTIVES[cost].label for cost in costs)})", lines)
    out.write_bytes(to_bytes(draw(recipes, costs, accuracy), "png"))
    print(f"{out}: the fronts")


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,))
