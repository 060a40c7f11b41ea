"""The tables and figures of "Making Models Shallow Again" (CVPR-W 2023) from our models, with the printed figures beside them.

Owns the matching of our models with the paper's. Refuses to draw, and to compare what isn't the same: a printed model stands
beside ours if data set, network, threshold and the budget's share of the network's ReLUs agree (within 2 %), for SENet's masks
per pixel; in what else ours differs (width, image size, epochs and the other choices) is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.published import FULL_RELUS, IMAGE_SIZE, TABLE1, TABLE2, PublishedRow
from analysis.tables import SHORT, differing
from raysp.methods.choices import WHICH_GATED, Choice
from raysp.stages.presets import PRESETS

SAME_SHARE = 0.02
NETWORK = ["dataset", "selection", "model", "width", "image_size", "precision"]
GATING = ["d_th", "gamma", "gate_epochs", "gb_init", "kernel_size"]
"""What a model without gated branching lacks."""
TRAINING = ["pram", "beta", "epochs"]
MASK = ["mask_method", "granularity", "mask_start", "depth_price", "layer_price", "sensitivity", "budget", "weights", "baseline"]
MORE = (
    "mask_start",
    "depth_price",
    "layer_price",
    "sensitivity",
    "weights",
    "gate_epochs",
    "ac_after",
    "ac_head",
    "ac_init",
    "ac_end",
    *TRAINING,
    "precision",
)
"""Choices that a table shows where its rows differ in them."""

TABLE_COLUMNS = (
    "dataset", "selected on", "network", "mask", "budget", "d_th", "GB", "output", *(SHORT.get(n, n) for n in MORE), "seeds",
    "ReLUs", "accuracy", "std", "depth", "MAC saving", "ReLU reduction",
    "paper's ReLUs", "paper's accuracy", "paper's depth", "paper's MAC saving", "paper's ReLU reduction",
    "accuracy difference", "remark",
)  # fmt: skip


def _by_threshold(points: pd.DataFrame) -> pd.DataFrame:
    """The models whose gates, if any, a threshold placed, as the paper's."""
    return points[points[[name for name in WHICH_GATED if name != "d_th"]].isna().all(axis=1)]


def table1(points: pd.DataFrame) -> pd.DataFrame:
    """Models with gated branching and those like them without, in `TABLE_COLUMNS`; accuracies are those on the test part.

    Args:
        points: one row per configuration and exit (`analysis.seeds.points_of`).
    """
    points = _by_threshold(points)
    ours = points[(points["mask_method"] != "none") & (points["exit"] == "final") & points["ac_after"].isna()]
    plain, gated = ours[ours["d_th"].isna()], ours[ours["d_th"].notna()]
    alike = [*NETWORK, *MASK, *TRAINING]
    has_other = _keys(gated, alike) & _keys(plain, alike)
    pairs = pd.concat([rows[np.array([k in has_other for k in _key_list(rows, alike)], dtype=bool)] for rows in (plain, gated)])
    pairs = pairs.assign(_gated=pairs["d_th"].notna()).sort_values([*alike, "_gated", *GATING], kind="stable")
    return _beside(pairs, TABLE1, points)


def table2(points: pd.DataFrame) -> pd.DataFrame:
    """Models with gated branching and auxiliary classifiers, every exit a row, in `TABLE_COLUMNS`."""
    points = _by_threshold(points)
    ours = points[points["d_th"].notna() & points["ac_after"].notna()]
    order = [*NETWORK, *MASK, *GATING, "ac_after", "ac_head", "ac_init", "ac_end", "configuration"]
    ours = ours.assign(_final=ours["exit"] != "final").sort_values([*order, "_final", "exit"], kind="stable")
    return _beside(ours, TABLE2, points)


def figure1(points: pd.DataFrame) -> pd.DataFrame:
    """Fig. 1: baseline, mask alone (SENet), gated, and gated with output at the auxiliary classifier, each metric as a share of
    its largest value.

    Of the networks that have all four and a block gated, the one of the largest budget; its rows have the columns `model`,
    `relus`, `macs`, `depth` and `test_accuracy` (shares), and the same with `_value` behind (as they are). Empty where no network
    has them.
    """
    points = _by_threshold(points)
    metrics = ["relus", "macs", "depth", "test_accuracy"]
    gated = points[points["d_th"].notna() & points["ac_after"].notna()]
    candidates = gated[gated["exit"] != "final"].sort_values(["budget", "val_accuracy"], ascending=False, kind="stable")
    for shallow in candidates.to_dict("records"):
        same = points[_equal(points, shallow, NETWORK)]
        is_own = np.array([shallow["key"] in keys for keys in same["key_list"]], dtype=bool)
        final = same[is_own & (same["exit"] == "final")]
        plain = same[_equal(same, shallow, [*MASK, *TRAINING]) & same["d_th"].isna() & (same["exit"] == "final")]
        # The one without an auxiliary classifier, if there is one.
        plain = plain.sort_values("ac_after", na_position="first", kind="stable")
        baseline = same[(same["mask_method"] == "none") & (same["configuration"] == shallow["baseline"])]
        # A threshold may have found nothing to gate.
        if len(final) and len(plain) and len(baseline) and final["macs"].iloc[0] < plain["macs"].iloc[0]:
            chosen = pd.concat([baseline.head(1), plain.head(1), final, pd.DataFrame([shallow])], ignore_index=True)
            names = ["all-ReLU", f"{shallow['mask_method']} mask", "with GB", "with GB, output at AC"]
            values = chosen[metrics].astype(float)
            shares = values / values.max()
            return pd.concat([pd.Series(names, name="model"), shares, values.add_suffix("_value")], axis=1).assign(
                what=f"{shallow['model']} of width {shallow['width']}, {shallow['dataset']}, budget {shallow['budget']:,}"
            )
    return pd.DataFrame()


def figure2a(layers: pd.DataFrame) -> pd.DataFrame:
    """Fig. 2a: share of the ReLUs that are kept by layer for SNL's and SENet's masks of one budget, the largest that has both.

    Returns:
        Columns `line` ("senet", "snl"), `layer`, `d` (mean over seeds), `what`; empty where no network has both.
    """
    masks = _block_layers(layers)
    masks = masks[masks["mask_method"].isin(["senet", "snl"])]
    counts = masks.groupby([*NETWORK, "budget"])["mask_method"].nunique().reset_index()
    both = counts[counts["mask_method"] == 2].sort_values("budget", ascending=False, kind="stable")
    if both.empty:
        return pd.DataFrame()
    chosen = both.iloc[0]
    rows = _of_one_recipe(masks[_equal(masks, chosen, [*NETWORK, "budget"])])
    return _mean_shares(rows, "mask_method").assign(what=f"{chosen['model']}, {chosen['dataset']}, budget {chosen['budget']:,}")


def figure2b(layers: pd.DataFrame) -> pd.DataFrame:
    """Fig. 2b: the same for SENet's masks of every budget, of the network that has most; empty where none has two."""
    masks = _block_layers(layers)
    masks = masks[masks["mask_method"] == "senet"]
    if masks.empty:
        return pd.DataFrame()
    counts = (
        _of_one_recipe(masks, NETWORK)
        .groupby(NETWORK)["budget"]
        .nunique()
        .reset_index()
        .sort_values("budget", ascending=False, kind="stable")
    )
    if counts["budget"].iloc[0] < 2:
        return pd.DataFrame()
    rows = _of_one_recipe(masks[_equal(masks, counts.iloc[0], NETWORK)])
    named = _mean_shares(rows, "budget")
    named["line"] = [f"budget {int(budget):,}" for budget in named["line"]]
    return named.assign(what=f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}")


def _block_layers(layers: pd.DataFrame) -> pd.DataFrame:
    """Masks per pixel that started from the teacher, without the stem's layer, which no figure of the paper has."""
    usual = (layers["granularity"] == "pixel") & layers["mask_start"].fillna("teacher").eq("teacher")
    rows = layers[usual & (layers["layer"] != "stem_relu")]
    return rows.assign(sensitivity=rows["sensitivity"].fillna("").astype(str))  # SNL has none


def _of_one_recipe(masks: pd.DataFrame, per: Sequence[str] = ()) -> pd.DataFrame:
    """Of each method's masks (per group of these columns) those of the sensitivities and epochs that most of them have; of
    equally many the first. What differs in more than the seed has no common mean.
    """
    groups = [*per, "mask_method"]
    counts = masks.groupby([*groups, "sensitivity", "epochs"])["mask_key"].nunique().reset_index()
    most = counts.sort_values("mask_key", ascending=False, kind="stable").drop_duplicates(groups)
    return masks.merge(most[[*groups, "sensitivity", "epochs"]], on=[*groups, "sensitivity", "epochs"])


def _mean_shares(rows: pd.DataFrame, line: str) -> pd.DataFrame:
    order = {layer: n for n, layer in enumerate(dict.fromkeys(rows["layer"]))}
    mean = rows.groupby([line, "layer"])["d"].mean().reset_index().rename(columns={line: "line"})
    return mean.assign(_n=mean["layer"].map(order)).sort_values(["line", "_n"], kind="stable").drop(columns="_n")


Row = Mapping[Any, Any]


def _beside(ours: pd.DataFrame, printed: Sequence[PublishedRow], points: pd.DataFrame) -> pd.DataFrame:
    """Our rows, each with the printed one that it matches; then the printed ones on our data sets that none of ours does."""
    baselines = points[points["mask_method"] == "none"]
    left = [row for row in printed if row.dataset in set(ours["dataset"])]
    more = differing(ours, MORE)
    rows = []
    for point in ours.to_dict("records"):
        baseline = baselines[_equal(baselines, point, NETWORK)]
        base = baseline.iloc[0] if len(baseline) else None
        match = next((row for row in printed if _matches(row, point, base)), None)
        left = [row for row in left if row is not match]
        telling = {SHORT.get(name, name): point[name] for name in more}
        rows.append(_our_cells(point, base) | telling | (_printed_cells(match) if match else {}) | _difference(match, point))
    for row in left:
        names = {"dataset": row.dataset, "network": row.model, "mask": "senet", "budget": row.budget}
        names |= {"d_th": row.d_th if row.gated else None, "GB": "yes" if row.gated else "no", "output": row.exit}
        rows.append(names | _printed_cells(row) | {"remark": "the paper's alone"})
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def _our_cells(point: Row, base: pd.Series | None) -> dict[str, Any]:
    return {
        "dataset": point["dataset"],
        "selected on": point["selection"],
        "network": f"{point['model']}, width {point['width']}, {point['image_size']}x{point['image_size']}",
        "mask": point["mask_method"] if point["granularity"] == "pixel" else f"{point['mask_method']} by {point['granularity']}",
        "budget": point["budget"],
        "d_th": point["d_th"],
        "GB": "no" if pd.isna(point["d_th"]) else _gate(point),
        "output": point["exit"],
        "seeds": point["seeds"],
        "ReLUs": point["relus"],
        "accuracy": point["test_accuracy"],
        "std": point["test_accuracy_std"],
        "depth": point["depth"],
        "MAC saving": base["macs"] / point["macs"] if base is not None else None,
        "ReLU reduction": base["relus"] / point["relus"] if base is not None and point["relus"] else None,
    }


def _gate(point: Row) -> str:
    unusual = [str(point[n]) for n, usual in (("gamma", "linear"), ("gb_init", "random")) if point[n] != usual]
    unusual += [] if point["kernel_size"] == 3 else [f"kernel {point['kernel_size']}"]
    return ", ".join(["yes", *unusual])


def _printed_cells(row: PublishedRow) -> dict[str, Any]:
    return {
        "paper's ReLUs": row.relus,
        "paper's accuracy": row.accuracy,
        "paper's depth": row.depth,
        "paper's MAC saving": row.mac_saving,
        "paper's ReLU reduction": row.relu_reduction,
    }


def _difference(row: PublishedRow | None, point: Row) -> dict[str, Any]:
    if row is None:
        return {}
    other = [SHORT.get(name, name) for name, value in _papers(row).items() if pd.notna(point[name]) and point[name] != value]
    remark = f"not the paper's: {', '.join(other)}" if other else ""
    return {"accuracy difference": point["test_accuracy"] - row.accuracy, "remark": remark}


def _papers(row: PublishedRow) -> dict[str, Any]:
    """What a printed model was trained with, as columns have it, but for what ours must agree in to stand beside it."""
    preset = PRESETS[f"paper-{row.model}-{row.dataset}"]
    usual = Choice(budget=row.budget)
    return {
        "width": preset.width,
        "image_size": IMAGE_SIZE,
        "selection": preset.selection,
        "epochs": preset.finetune.epochs,
        "sensitivity": f"density {usual.density:g}",
        "weights": "continue",
        "beta": preset.beta,
        "gate_epochs": preset.gate_epochs,
        "precision": preset.finetune.precision,
        **{
            name: getattr(usual, name)
            for name in ("mask_start", "gamma", "gb_init", "kernel_size", "ac_head", "ac_init", "ac_end", "pram")
        },
    }


def _matches(row: PublishedRow, point: Row, base: pd.Series | None) -> bool:
    if base is None or (row.dataset, row.model, row.exit) != (point["dataset"], point["model"], point["exit"]):
        return False
    if point["mask_method"] != "senet" or point["granularity"] != "pixel" or row.has_ac == pd.isna(point["ac_after"]):
        return False
    if row.has_ac and str(point["ac_after"]) != "3":
        return False
    same_gate = (pd.isna(point["d_th"]) and not row.gated) or (row.gated and point["d_th"] == row.d_th)
    share = row.budget / FULL_RELUS[row.model]
    return bool(same_gate and abs(point["budget"] / base["relus"] - share) <= SAME_SHARE * share)


def _equal(table: pd.DataFrame, row: Any, names: Sequence[str]) -> "pd.Series[bool]":
    """Rows that agree with one in these columns; missing values agree with missing ones."""
    same = pd.Series(True, index=table.index)
    for name in names:
        same &= table[name].isna() if pd.isna(row[name]) else (table[name] == row[name]).fillna(False).astype(bool)
    return same


def _key_list(rows: pd.DataFrame, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return [tuple(None if pd.isna(v) else v for v in key) for key in rows[list(names)].itertuples(index=False)]


def _keys(rows: pd.DataFrame, names: Sequence[str]) -> set[tuple[Any, ...]]:
    return set(_key_list(rows, names))
