"""The paper's tables and figures from our models."""

import numpy as np
import pandas as pd
import pytest
from records import GATED, row

from analysis.paper import figure1, figure2a, figure2b, table1, table2


def points(rows, names):
    """Rows as points of one seed, by the names of their models; the first is everyone's all-ReLU network."""
    known = {"configuration": names, "key": names, "key_list": [(name,) for name in names], "baseline": names[0]}
    return pd.DataFrame(rows).assign(seeds=1, test_accuracy_std=np.nan, **known)


def test_tables_1_and_2_set_ours_beside_the_papers():
    full = {"dataset": "cifar100", "width": 64, "image_size": 32, "epochs": 180, "beta": 1000.0, "selection": "test"}
    gated = {**GATED, "d_th": 0.05, "gate_epochs": 90}
    table = points(
        [
            row(**full, mask_method="none", budget=557_056, relus=557_056, macs=550, depth=16),
            row(**full, budget=24_900, relus=24_900, macs=550, depth=16, test_accuracy=70.0),
            row(**full, **gated, budget=24_900, relus=21_100, macs=400, depth=12, test_accuracy=69.5),
            row(**full, **gated, budget=100_000, ac_after="3", relus=96_000, macs=475, depth=14, test_accuracy=78.0),
            row(**full, **gated, budget=100_000, ac_after="3", exit="ac3", relus=65_000, macs=376, depth=10, test_accuracy=76.0),
            row(dataset="digits", budget=24_900, macs=550),
        ],
        ["base", "a", "b", "c", "c", "d"],
    )
    first = table1(table)
    ours = first[first["accuracy"].notna()]
    assert ours[["GB", "ReLUs", "paper's ReLUs", "paper's accuracy"]].to_numpy().tolist() == [
        ["no", 24_900, 24_900, 70.59],
        ["yes", 21_100, 21_100, 69.10],
    ]
    assert ours["accuracy difference"].tolist() == pytest.approx([-0.59, 0.4])
    assert ours["MAC saving"].tolist() == pytest.approx([1, 1.375])
    assert (first["remark"] == "the paper's alone").sum() == 4, "those on CIFAR-10 have nothing to stand beside"
    second = table2(table)
    assert second["paper's accuracy"].tolist() == [78.24, 76.31]
    assert second["accuracy difference"].tolist()[:2] == pytest.approx([-0.24, -0.31])
    bars = figure1(table)
    assert bars.empty, "there is no mask alone of that budget"
    more = points([row(**full, budget=100_000, relus=100_000, macs=550)], ["e"]).assign(baseline="base")
    other = points([row(**full, mask_method="none", budget=557_056, relus=557_055, macs=550)], ["another"])
    bars = figure1(pd.concat([other, table, more]))
    assert bars["relus_value"].tolist() == [557_056, 100_000, 96_000, 65_000]
    assert bars["macs"].tolist() == pytest.approx([1, 1, 475 / 550, 376 / 550])
    assert set(ours["remark"]) == {""}
    short = table1(table.assign(width=16, epochs=18))
    assert short["remark"].dropna().tolist()[:2] == ["not the paper's: width, epochs"] * 2


def test_rows_of_a_table_say_in_what_they_differ():
    gated = {**GATED, "budget": 100}
    rows = [row(**gated, ac_after=after, beta=beta) for after, beta in (("3", 10.0), ("2+3", 10.0), ("3", 100.0))]
    shown = table2(points([row(mask_method="none"), *rows], ["base", "a", "b", "c"]))
    assert sorted(shown[["AC after", "beta"]].to_numpy().tolist()) == [["2+3", 10.0], ["3", 10.0], ["3", 100.0]]
    assert shown[["epochs", "pram", "precision"]].isna().all(axis=None), "in which they agree"


def test_figure_2_is_of_the_blocks_layers():
    shared = {
        "dataset": "c",
        "selection": "val",
        "model": "m",
        "width": 1,
        "image_size": 8,
        "precision": "fp32",
        "granularity": "pixel",
        "mask_start": None,
        "depth_price": None,
        "layer_price": None,
        "weights": "continue",
        "sensitivity": None,
        "epochs": 1,
    }
    masks = [("senet", 10), ("snl", 10), ("senet", 20)]
    lines = [
        shared | {"mask_method": m, "budget": b, "layer": layer, "d": b / 100, "mask_key": f"{m}{b}"}
        for m, b in masks
        for layer in ("stem_relu", "stages.0.0.inner_relu")
    ]
    layers = pd.DataFrame(lines)
    assert figure2a(layers)[["line", "layer"]].to_numpy().tolist() == [
        ["senet", "stages.0.0.inner_relu"],
        ["snl", "stages.0.0.inner_relu"],
    ]
    assert figure2b(layers)["line"].tolist() == ["budget 10", "budget 20"]
    assert figure2a(layers[layers["mask_method"] == "snl"]).empty
    assert figure2b(layers[layers["budget"] == 10]).empty


def test_figure_1_is_of_the_model_that_validation_chooses():
    full = {"dataset": "cifar100", "budget": 100}
    gated = {**full, **GATED, "ac_after": "3", "macs": 900}
    nothing = gated | {"macs": 1000, "val_accuracy": 95.0}
    table = points(
        [
            row(**full, mask_method="none"),
            row(**full),
            *(row(**gated, val_accuracy=90.0, test_accuracy=70.0, exit=name) for name in ("final", "ac3")),
            *(row(**gated | {"gamma": "cosine"}, val_accuracy=80.0, test_accuracy=75.0, exit=name) for name in ("final", "ac3")),
            *(row(**nothing, exit=name) for name in ("final", "ac3")),
        ],
        ["base", "a", "b", "b", "c", "c", "d", "d"],
    )
    assert figure1(table)["test_accuracy_value"].tolist() == [79.0, 79.0, 70.0, 70.0]


def test_figure_2_takes_no_mean_over_different_sensitivities():
    shared = {"dataset": "c", "selection": "val", "model": "m", "width": 1, "image_size": 8, "granularity": "pixel", "epochs": 1}
    shared |= {"precision": "fp32", "mask_start": None, "mask_method": "senet", "layer": "stages.0.0.inner_relu"}
    masks = [("density 0.1", 10, 0.02), ("density 0.5", 10, 0.5), ("density 0.1", 20, 0.04)]
    lines = [shared | {"sensitivity": s, "budget": b, "d": d, "mask_key": f"{s}{b}"} for s, b, d in masks]
    assert figure2b(pd.DataFrame(lines))["d"].tolist() == [0.02, 0.04]
