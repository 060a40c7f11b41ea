"""What a sweep's results say, over seeds, as Markdown.

    python benchmarks/answers.py RESULTS

1. Does sensitivity rise with depth, and do SENet's and SNL's masks agree on the layers?
2. What does gated branching cost at equal budget, and what does it save?
3. What does an auxiliary classifier cost and save? Is joint training of two worse than one of each alone?
4. Linear or cosine growth of the gate? Which start of the shallow branch? Which masks? Whose front is ahead?
5. What does each model cost in measured private inference, and does the order of the front change?
6. What did sharing stages save against separate pipelines?

Models are compared in pairs that differ in one choice only, seed by seed. A seed's figure is the mean over its pairs; printed are
the mean over seeds and their standard deviation (n - 1). Accuracies are those on the test part.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import pandas as pd
import tyro
from tyro.conf import Positional, arg

from analysis.pareto import DEFAULT_OBJECTIVES, hypervolume, pareto_front, reference_point
from analysis.records import Runs
from analysis.report import read_report
from analysis.results import WHICH
from raysp.methods.choices import WHICH_GATED
from raysp.store.location import locate

Rows = pd.DataFrame
GATE = (*WHICH_GATED, "link", "gamma", "gate_epochs", "gb_init", "kernel_size")
"""Columns that say how blocks were gated; all differ from those of a model without gates."""
AC = ("ac_after", "ac_head", "ac_init", "ac_end")
RAMPS = ("gamma", "gate_epochs", "gb_init")
PI = {"pi_time_s": "seconds", "pi_bytes": "bytes"}


def pairs(table: Rows, one: "pd.Series[bool]", other: "pd.Series[bool]", differ: Sequence[str]) -> Rows:
    """Rows of `one` beside those of `other` (columns ending in `_o`) that agree in everything but `differ`, seeds included."""
    alike = [name for name in (*WHICH, "baseline", "seed") if name not in (*differ, "configuration")]
    kept = [*alike, "relus", "macs", "depth", "val_accuracy", "test_accuracy"]
    # Nothing equals nothing here: a choice that means nothing is a choice, too.
    first, second = (
        rows[kept].astype(dict.fromkeys(alike, "string")).fillna(dict.fromkeys(alike, "-")) for rows in (table[one], table[other])
    )
    return first.merge(second, on=alike, suffixes=("", "_o")).astype({"budget": "float64"}).astype({"budget": "int64"})


def over_seeds(rows: Rows, figure: Callable[[Rows], "pd.Series[float]"]) -> str:
    """Mean and spread over seeds of a figure of each row."""
    values = rows.assign(_figure=figure(rows).astype(float)).groupby("seed")["_figure"].mean()
    return spread(list(values))


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, and of how many."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f} (one seed)"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def markdown(title: str, rows: Sequence[Mapping[str, Any]] | Rows) -> None:
    """Print a table."""
    print(f"\n### {title}\n")
    lines = pd.DataFrame(rows)
    print("No models that this could be told from." if lines.empty else lines.to_markdown(index=False, disable_numparse=True))


def compared(title: str, found: Rows, by: Sequence[str]) -> None:
    """Print what the second of each pair has gained and saved against the first, a line per value of some columns."""
    lines = []
    for values, rows in found.groupby(list(by), sort=True) if len(found) else ():
        lines.append(
            {
                **dict(zip(by, values, strict=True)),
                "pairs": len(rows),
                "accuracy": over_seeds(rows, lambda r: r["test_accuracy"]),
                "of the other": over_seeds(rows, lambda r: r["test_accuracy_o"]),
                "difference": over_seeds(rows, lambda r: r["test_accuracy_o"] - r["test_accuracy"]),
                "ReLUs saved %": over_seeds(rows, lambda r: 100 * (1 - r["relus_o"] / r["relus"])),
                "MACs saved %": over_seeds(rows, lambda r: 100 * (1 - r["macs_o"] / r["macs"])),
                "depth": f"{rows['depth'].mean():.1f} to {rows['depth_o'].mean():.1f}",
            }
        )
    markdown(title, lines)


def sensitivity(layers: Rows) -> None:
    """Question 1; over all masks of a budget, by whatever recipe."""
    lines, rises, agree = [], [], []
    for budget, masks in layers.groupby("budget"):
        senet, snl = (masks[masks["mask_method"] == name] for name in ("senet", "snl"))
        for _, mine in senet.groupby("mask_key"):
            rises.append(_spearman(mine["eta_alpha"], range(len(mine))))
            agree += [
                _spearman(mine["d"], other["d"]) for _, other in snl[snl["seed"] == mine["seed"].iloc[0]].groupby("mask_key")
            ]
        if snl.empty:
            continue
        for layer in senet["layer"].drop_duplicates():
            # Of several recipes in one directory a seed's mean, so that the spread is over seeds.
            a, b = (
                rows[rows["layer"] == layer].groupby("seed")[["eta_alpha", "d"]].mean(numeric_only=True) for rows in (senet, snl)
            )
            lines.append(
                {
                    "budget": budget,
                    "layer": layer,
                    "SENet's sensitivity": spread(list(a["eta_alpha"])),
                    "SENet keeps %": spread(list(100 * a["d"])),
                    "SNL keeps %": spread(list(100 * b["d"])),
                }
            )
    markdown("1. Sensitivity by layer, and what masks keep", lines)
    print(f"\nSpearman's correlation of sensitivity with the layer's place: {spread(rises)} over {len(rises)} masks")
    print(f"of what SENet and SNL keep of each layer: {spread(agree)} over {len(agree)} pairs of masks")


def _spearman(one: Iterable[float], other: Iterable[float]) -> float:
    return pd.Series(list(one)).corr(pd.Series(list(other)), method="spearman")


def gating(table: Rows) -> None:
    """Question 2."""
    linear = table["d_th"].notna() & (table["gamma"] == "linear")
    names = ["d_th", "gb_init", "gate_epochs", "kernel_size"]
    for way in sorted(table[linear][names].drop_duplicates().to_numpy().tolist()):
        on = linear & (table[names] == way).all(axis=1)
        found = pairs(table, table[list(WHICH_GATED)].isna().all(axis=1), on, GATE)
        final = found[found["exit"] == "final"]
        how = "d_th {:g}, {} start, {} epochs of linear ramp, kernel {}".format(*way)
        compared(f"2. Gated branching ({how}) against none; final classifier", final, ["mask_method", "budget"])


def exits(table: Rows) -> None:
    """Question 3."""
    has = table["ac_after"].notna()
    for name in ("ac2", "ac3"):
        found = pairs(table, has & (table["exit"] == "final"), has & (table["exit"] == name), ["exit"])
        compared(
            f"3. Output at {name} against the same network's final classifier",
            found,
            ["mask_method", *AC[1:], *WHICH_GATED, "budget"],
        )
    joint = table["ac_after"] == "2+3"
    for alone, name in (("2", "ac2"), ("3", "ac3")):
        found = pairs(
            table, (table["ac_after"] == alone) & (table["exit"] == name), joint & (table["exit"] == name), ["ac_after"]
        )
        compared(f"3. {name}: trained jointly against alone", found, ["budget"])
    found = pairs(table, ~has, joint & (table["exit"] == "final"), AC)
    compared("3. Final classifier: with both auxiliary ones against none", found, ["budget"])


def recipes(table: Rows) -> None:
    """Question 4."""
    found = pairs(table, table["gamma"] == "linear", table["gamma"] == "cosine", ["gamma"])
    compared("4. Cosine growth against linear", found, ["budget", "exit"])
    found = pairs(table, table["gb_init"] == "random", table["gb_init"] == "least-squares", RAMPS)
    compared("4. Least-squares start against a random one", found, [*WHICH_GATED, "exit"])
    for other in ("random", "counterfactual", "snl"):
        found = pairs(
            table, table["mask_method"] == "senet", table["mask_method"] == other, ["mask_method", "sensitivity", "mask_start"]
        )
        compared(f"4. Masks by {other} against SENet's", found, ["budget", "exit"])


def fronts(table: Rows, names: Sequence[str]) -> None:
    """Question 4: recipes as a whole, by the models that all of a recipe's seeds have."""
    reference = reference_point(table, DEFAULT_OBJECTIVES)
    baseline = table[table["mask_method"] == "none"]
    students = table[table["mask_method"] != "none"]
    lines = []
    for number, name in enumerate(names):
        found = students.query(name, engine="python")
        own = baseline[baseline["configuration"].isin(found["baseline"])]
        mine = found[found.groupby(["configuration", "exit"])["seed"].transform("nunique") == found["seed"].nunique()]
        each = {
            seed: hypervolume(pd.concat([rows, own[own["seed"] == seed]]), DEFAULT_OBJECTIVES, reference)
            for seed, rows in mine.groupby("seed")
        }
        if number == 0:
            first = each
        shared = [seed for seed in each if seed in first]
        lines.append(
            {
                "models": f"`{name}`",
                "a seed": len(mine) // max(1, len(each)),
                "hypervolume %": spread([100 * value for value in each.values()]),
                "against the first": spread([each[seed] / first[seed] for seed in shared]),
            }
        )
    markdown("4. Hypervolume (validation accuracy, ReLUs, MACs, depth)", lines)


def private_inference(table: Rows) -> None:
    """Question 5; a model is one seed's, with its own costs."""
    if "pi_time_s" not in table or table["pi_time_s"].notna().sum() < 2:
        markdown("5. Measured private inference", [])
        return
    known = table.dropna(subset=["pi_time_s"])
    lines = []
    for cost in ("relus", "macs", "depth", *PI):
        front = pareto_front(known, ("val_accuracy", cost))
        lines.append(
            {
                "cost": PI.get(cost, cost),
                "on the front": len(front),
                **{
                    f"correlation with {short}": f"{known[cost].astype(float).corr(known[measured], method='spearman'):.2f}"
                    for measured, short in PI.items()
                },
                **{
                    f"also on that of {short}": len(
                        front.index.intersection(pareto_front(known, ("val_accuracy", measured)).index)
                    )
                    for measured, short in PI.items()
                },
            }
        )
    markdown(f"5. Fronts of accuracy against one cost, over {len(known)} measured models; Spearman's correlations", lines)
    shown = [
        "mask_method",
        "budget",
        "d_th",
        "ac_after",
        "exit",
        "relus",
        "macs",
        "depth",
        "val_accuracy",
        "pi_time_s",
        "pi_bytes",
    ]
    rows = known.sort_values("pi_time_s")[shown].astype({"ac_after": object, "d_th": object}).round(2)
    markdown("5. The measured ones", rows.where(rows.notna(), "-"))


def spent(runs: Runs) -> None:
    """Question 6: seconds of shared stages against those of every configuration's own chain."""
    records = {record["key"]: record for record in runs.records}

    def chain(key: str) -> set[str]:
        return {key}.union(*(chain(parent["key"]) for parent in records[key].get("parents", {}).values()))

    lines = []
    for where, counted in (("all", set(records)), ("on GPUs", {k for k, r in records.items() if "gpu" in r.get("host", {})})):
        last = [key for key in counted if records[key]["stage"] == "finetune"]
        chains = {key: sum(records[each]["time_s"] for each in chain(key)) for key in last}
        shared = sum(records[key]["time_s"] for key in counted)
        # A network with several auxiliary classifiers takes the place of one network for each, if each is to have one of its own.
        each_ac = sum(max(1, len(records[key]["config"]["ac_after"])) * seconds for key, seconds in chains.items())
        lines.append(
            {
                "stages": f"{where}, {len(counted)}",
                "configurations": len(last),
                "shared stages, hours": f"{shared / 3600:.2f}",
                "separate pipelines, hours": f"{sum(chains.values()) / 3600:.2f}",
                "one for each AC, hours": f"{each_ac / 3600:.2f}",
                "times": f"{sum(chains.values()) / shared:.2f}, {each_ac / shared:.2f}" if shared else "-",
            }
        )
    markdown("6. Hours of training, one stage's slot each", lines)


def main(
    results: Annotated[Positional[tuple[str, ...]], arg(help="results directories")],
    recipe: Annotated[
        tuple[str, ...], arg(help="pandas queries that say which models a recipe has; the first is compared with")
    ] = (
        "mask_method == 'senet' and gb_init != 'least-squares'",
        "mask_method == 'snl' and gb_init != 'random'",
    ),
) -> None:
    """Print all answers."""
    report = read_report([locate(root) for root in results])
    sensitivity(report.layers)
    gating(report.table)
    exits(report.table)
    recipes(report.table)
    fronts(report.table, recipe)
    private_inference(report.table)
    spent(report.runs)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
