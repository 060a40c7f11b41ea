"""Records as tables: one row per exit of every finished model, and one per ReLU layer of every mask."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.objectives import ACCURACIES, BY_CLASS
from analysis.predictions import PREDICTED
from analysis.records import configurations, mask_facts
from raysp.models.costs import estimate_delphi
from raysp.pi import MEANING, MeasuredFile
from raysp.store.classes import percent_of, spread, worst_class

ESTIMATED = tuple(estimate_delphi(0, 0, 0))
"""Columns of published estimates (`raysp.models.costs`), whose names say so."""

MEASURED_PI = ("pi_time_s", "pi_bytes", "pi_protocol")
"""Columns that a table has only if one of its models was run under private inference (`raysp.pi`): seconds of a warm image, bytes
that both parties send, and what kind of run it was. Kinds can't be compared: a table has one, CHEETAH's where there is any.
"""

MEASURED = ("relus", "macs", "depth", "params", *ACCURACIES, *BY_CLASS, *ESTIMATED, "time_s")
"""Columns that a configuration doesn't have but gets."""

DECIMALS = 3
"""Of `class_spread`; accuracies by class are kept with two."""

PREFIX = "c-"
"""Before a configuration's digits: one in 140 has none but decimal digits, or two groups of them around an e, which spreadsheets
take for a number."""

MASK_COLUMNS = (
    "dataset",
    "model",
    "width",
    "image_size",
    "epochs",
    "seed",
    "selection",
    "precision",
    "mask_method",
    "granularity",
    "mask_start",
    "depth_price",
    "layer_price",
    "sensitivity",
    "budget",
)
"""What was trained on what, and with which mask; `epochs` are those of the stage that the row is about."""

NAMES = ("key", "mask_key", "configuration", "baseline", "preset")
"""What a row's models are called. Rows that differ in nothing but the seed share their `configuration`; `baseline` is that of the
all-ReLU network that a row's training started from."""

COLUMNS = (
    *NAMES,
    *MASK_COLUMNS,
    "weights",
    "d_th",
    "gate_blocks",
    "gate_loss",
    "max_seconds",
    "link",
    "gamma",
    "gate_epochs",
    "gb_init",
    "kernel_size",
    "ac_after",
    "ac_head",
    "ac_init",
    "ac_end",
    "pram",
    "beta",
    "exit",
    *MEASURED,
)
"""Columns of results.csv. Accuracies in percent, budget and relus in ReLU units, time_s in seconds of that stage alone."""

WHICH = ("configuration", *(name for name in COLUMNS if name not in (*NAMES, "seed", *MEASURED)))
"""Columns that say which model a row is about, whatever its seed."""


def results_table(
    records: Sequence[Mapping[str, Any]],
    measurements: Mapping[str, Sequence[MeasuredFile]] | None = None,
    predicted: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """The rows of these records in `COLUMNS`, in an order that depends on their content alone.

    Args:
        records: of finished stages.
        measurements: their models under private inference, by key.
        predicted: the columns of `PREDICTED`, by key and exit.
    """
    rows = []
    measured, foretold = _measured(measurements or {}), predicted or {}
    configuration = configurations(records)
    for record in records:
        parents = record.get("parents", {})
        teacher = parents["baseline"]["key"] if "baseline" in parents else record["key"]
        known = {
            "key": record["key"],
            "configuration": f"{PREFIX}{configuration[record['key']]}",
            "baseline": f"{PREFIX}{configuration[teacher]}" if teacher in configuration else teacher,
            "mask_key": parents.get("mask", parents.get("ranking", {})).get("key"),
            "preset": record.get("labels", {}).get("preset"),
            "time_s": round(record["time_s"], 2),
        }
        for row in record["rows"]:
            # Records from before there was a choice have no selection part, no precision, and a number for their one placement;
            # their students went on with their mask's weights, their heads started at random and stayed as they were trained.
            old = {"selection": row.get("selection", "val"), "precision": row.get("precision", "fp32")}
            if "mask" in parents:
                old["weights"] = row.get("weights", "continue")
            if row.get("ac_after") is not None:
                old |= {
                    "ac_after": str(row["ac_after"]),
                    "ac_init": row.get("ac_init") or "random",
                    "ac_end": row.get("ac_end") or "trained",
                }
            computed = _estimates(record, row) | _over_classes(record, row)
            which = record["key"], row.get("exit")
            rows.append(row | known | old | computed | measured.get(which, {}) | foretold.get(which, {}))
    more = [name for name in (*MEASURED_PI, *PREDICTED) if any(row.get(name) is not None for row in rows)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *more])
    whole = ["kernel_size", "gate_epochs", "gate_blocks"]
    table[whole] = table[whole].astype("Int64")
    if "pred_fitted" in more:
        table["pred_fitted"] = table["pred_fitted"].astype("Int64")
    table["ac_after"] = table["ac_after"].astype("string")
    table[list(BY_CLASS)] = table[list(BY_CLASS)].astype("float64")
    order = [name for name in COLUMNS if name not in (*NAMES, "exit", *MEASURED)]
    return table.sort_values([*order, "key", "exit"], kind="stable", ignore_index=True)


def _measured(measurements: Mapping[str, Sequence[MeasuredFile]]) -> dict[tuple[str, Any], dict[str, Any]]:
    """The columns of `MEASURED_PI`, by key and exit, of the one protocol that a table has."""
    protocols = {m.protocol for found in measurements.values() for m in found}
    chosen = next((protocol for protocol in MEANING if protocol in protocols), "")
    return {
        (key, m.exit): {"pi_time_s": m.time_s, "pi_bytes": m.bytes, "pi_protocol": f"{chosen}: {MEANING[chosen]}"}
        for key, found in measurements.items()
        for m in found
        if m.protocol == chosen
    }


def _estimates(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float | None]:
    """What DELPHI would take; empty where the row has no costs. Records from before a layer's costs were kept lack one of
    them.
    """
    if row.get("relus") is None or row.get("macs") is None:
        return {}
    try:
        layers = sum(layer["relus"] > 0 for layer in record["metrics"]["costs"][row["exit"]])
    except (KeyError, TypeError):
        layers = None
    return estimate_delphi(row["relus"], row["macs"], layers)


def _over_classes(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns of `BY_CLASS`; None where the record doesn't tell classes apart."""
    percent = percent_of(record["metrics"], row.get("exit", ""))
    worst, deviation = worst_class(percent), spread(percent)
    values = (None if worst is None else percent[worst], None if deviation is None else round(deviation, DECIMALS))
    return dict(zip(BY_CLASS, values, strict=True))


LAYER_COLUMNS = ("mask_key", *MASK_COLUMNS, "layer", "size", "kept", "d", "eta_alpha")
"""Columns of layers.csv, a row per ReLU layer of every mask. `d` is kept / size, `eta_alpha` the sensitivity that the budget was
shared out by, if there was one."""


def layers_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """What every mask among these records, or that a ranking gave one of them, leaves of each ReLU layer, in `LAYER_COLUMNS`."""
    rows: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    by_key = {record["key"]: record for record in records}
    for record in by_key.values():
        if record["stage"] == "mask":
            known = {"mask_key": record["key"], **mask_facts(record)}
        elif (key := record.get("parents", {}).get("ranking", {}).get("key")) and record["rows"]:
            # A ranking gives every budget its mask; what a budget's mask is, stands wherever it was used.
            ranking = by_key.get(key)
            known = {name: record["rows"][0].get(name) for name in MASK_COLUMNS}
            known |= {"mask_key": key, "epochs": ranking and ranking["config"].get("recipe", {}).get("epochs")}
        else:
            continue
        layers = record["metrics"].get("layers", [])
        rows[known["mask_key"], known["budget"]] = [known | layer | {"d": layer["kept"] / layer["size"]} for layer in layers]
    table = pd.DataFrame([row for found in rows.values() for row in found], columns=list(LAYER_COLUMNS))
    order = ["dataset", "model", "width", "seed", "mask_method", "budget", "mask_key"]
    return table.sort_values(order, kind="stable", ignore_index=True)
