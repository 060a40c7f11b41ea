"""Predictions from records: what the network itself is predicted to take, and fast."""

import itertools
import json
import tarfile
import time
from pathlib import Path

import networks
import pandas as pd
import pytest
import torch
from calibrated import known, members, recorded, small

from raysp.latency.known import packaged
from raysp.latency.prediction import predict
from raysp.latency.recorded import outline_of, predict_records, structure_of
from raysp.latency.tables import COSTS
from raysp.models.collapse import drop_main_branches
from raysp.models.files import load_outline, save_model

RESULTS = Path(__file__).parents[2] / "results/cifar100-width16"
SIZES = {"num_classes": 10, "image_size": 8, "channels": 1}


def nothing(record):
    raise ValueError("nobody knows it")


@pytest.mark.parametrize(
    ("name", "kernel", "head", "blocks"),
    [
        ("resnet18", 3, "pool", ()),
        ("resnet18", 5, "bottleneck", (0, 2)),
        ("wrn22-8", 3, "grid", (1,)),
        ("vgg16", 3, "pool", (0, 2)),
    ],
)
def test_a_record_is_told_as_its_network_is(name, kernel, head, blocks):
    model = networks.gated(name, ac_after=2, blocks=blocks, kernel=kernel, head=head, in_channels=3)
    names = [name for name, _ in model.gated_blocks()]
    inner = model.gated_blocks()[3][1].inner_relu
    inner.set_mask(torch.zeros(inner.shape, dtype=torch.bool))
    calibrations = known(members(kernels=(3, 5), heads=(head,), model=name))
    record = recorded(model, gated=[names[n] for n in blocks], kernel_size=kernel, ac_after=(2,), ac_head=head)
    found = predict_records([record], calibrations, nothing)
    assert set(found.rows) == {("0", "final"), ("0", "ac2")} and not found.untold
    for exit_name in ("final", "ac2"):
        expected, row = predict(model, exit_name, calibrations), found.rows["0", exit_name]
        assert {cost: getattr(row.costs, cost) for cost in COSTS} == pytest.approx(
            {cost: getattr(expected, cost) for cost in COSTS}
        )
        assert (row.layers.fitted, row.layers.calibration) == (len(expected.fitted), "mine")


def test_a_network_of_ones_own_is_told_by_its_weights_header(tmp_path):
    model = networks.gated("resnet18", ac_after=2, in_channels=3)
    save_model(drop_main_branches(model), tmp_path)
    record = recorded(model, ac_after=(2,))
    record["config"]["experiment"] |= {"model": "custom", "width": 0, "network": {"name": "mine:build", "sha256": "ab"}}
    calibrations = known(members())
    found = predict_records([record], calibrations, lambda _: load_outline(tmp_path))
    assert found.rows["0", "ac2"].costs.bytes == pytest.approx(predict(model, "ac2", calibrations).bytes)
    assert all(parameter.is_meta for parameter in load_outline(tmp_path).parameters())
    untold = predict_records([record], calibrations, nothing)
    assert not untold.rows and untold.untold == {"resnet18": "nobody knows it"}


def test_a_file_that_says_nothing_of_its_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which would say what network it is"):
        load_outline(tmp_path)
    for content in (b"", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"{}"):
        (tmp_path / "weights.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="says nothing of its network"):
            load_outline(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": {"experiment": {"data": SIZES, "model": "resnet18"}}},
        {"config": {"experiment": {"data": SIZES, "model": "resnet18", "width": 4}, "ac_after": 3}},
        {"config": {"experiment": {"data": {**SIZES, "image_size": {}}, "model": "resnet18", "width": 4}}},
    ],
)
def test_a_record_that_says_nothing_of_its_network_is_left_open(change):
    record = recorded(small()) | change
    with pytest.raises(ValueError, match="says nothing of its network"):
        structure_of(record)
    found = predict_records([record], known(members()), nothing)
    assert not found.rows and list(found.untold) == ["finetune 0"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gated": ["stages.9"]}, "a shallow block 'stages.9'"),
        ({"ac_after": (9,)}, "auxiliary classifier after stage 9"),
        ({"ac_after": (1,), "ac_head": "big"}, "unknown head"),
    ],
)
def test_a_network_that_cannot_be_is_named_once(change, why):
    records = [recorded(small(), key=key, **change) for key in "01"]
    found = predict_records(records, known(members()), nothing)
    assert not found.rows
    ((name, reason),) = found.untold.items()
    assert name == "resnet18" and why in reason


def test_records_of_before_costs_by_layer_are_left_open():
    record = recorded(small())
    del record["metrics"]["costs"]
    other = recorded(small(), key="1")
    del other["metrics"]["costs"]["final"][2]["relu_positions"]
    found = predict_records([record, other], known(members(image_size=8, in_channels=1, num_classes=10)), nothing)
    assert not found.rows and not found.untold


@pytest.mark.parametrize("wrong", [-1, 10**9, "many", 2.5, float("nan"), True])
def test_counts_that_cannot_be_are_left_open(wrong):
    record = recorded(small())
    next(layer for layer in record["metrics"]["costs"]["final"] if layer["relus"])["relus"] = wrong
    assert not predict_records([record], known(members(image_size=8, in_channels=1, num_classes=10)), nothing).rows


def test_weights_that_cannot_be_read_are_named():
    def locked(record):
        raise PermissionError(13, "Permission denied")

    record = recorded(small())
    record["config"]["experiment"] |= {"model": "custom", "width": 0, "network": {"name": "mine:build", "sha256": "ab"}}
    found = predict_records([record], known(members()), locked)
    assert not found.rows and "Permission denied" in found.untold["resnet18"]


def test_layers_that_nobody_can_tell_leave_their_rows_open():
    model = networks.gated("wrn22-8", in_channels=3, blocks=())
    found = predict_records([recorded(model)], known(members()), nothing)
    assert not found.rows
    assert all(name.startswith("norm ") for name in found.untold) and found.untold


def test_building_an_outline_draws_no_random_number():
    structure = structure_of(recorded(small(), ac_after=(2,), gated=("stages.0.0",)))
    before = torch.get_rng_state()
    outline = outline_of(structure)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.is_meta for parameter in outline.parameters())


def test_ten_thousand_rows_take_seconds():
    names = [name for name, _ in small().gated_blocks()]
    kinds = []
    for gated in itertools.islice(itertools.combinations(names, 2), 10):
        model = small()
        for name in gated:
            dict(model.gated_blocks())[name].add_shallow_branch(3)
        model.add_exit(2, "pool")
        kinds.append(recorded(model, gated=gated, ac_after=(2,)))
    records = [{**kinds[number % len(kinds)], "key": str(number)} for number in range(5_000)]
    calibrations = known(members(image_size=8, in_channels=1, num_classes=10))
    begin = time.process_time()
    found = predict_records(records, calibrations, nothing)
    assert time.process_time() - begin < 5
    assert len(found.rows) == 10_000


def test_bytes_are_those_that_were_measured():
    """Of trained models that were run under two-party computation before any calibration was made."""
    table = pd.read_csv(RESULTS / "results.csv").dropna(subset=["pi_bytes"])
    measured = {(row["key"], row["exit"]): row["pi_bytes"] for row in table.to_dict("records")}
    keys = {key for key, _ in measured}
    with tarfile.open(RESULTS / "records.tar.xz") as archive:
        files = (archive.extractfile(member) for member in archive if member.name.endswith("record.json"))
        records = (json.loads(file.read()) for file in files)
        chosen = list(itertools.islice((record for record in records if record["key"] in keys), 5))
    found = {which: row for which, row in predict_records(chosen, packaged(), nothing).rows.items() if which in measured}
    assert len(found) >= 5
    for which, row in found.items():
        assert row.layers.fitted == 0
        assert row.costs.bytes == pytest.approx(measured[which], rel=1e-3)
