"""Predicted private inference in tables, fronts, limits and the command."""

import functools
import json

import networks
import pandas as pd
import pytest
import torch
from calibrated import calibration, known, members, recorded
from records import commit, record_of, row
from safetensors.torch import save
from toy import toy

from analysis.predictions import PREDICTED
from analysis.report import FRONT, MEASURED, PREDICTION, Question, read_report, tables_of, write_report
from analysis.report.__main__ import main
from analysis.results import COLUMNS
from raysp.latency.links import parse_link
from raysp.latency.prediction import predict
from raysp.models.collapse import drop_main_branches
from raysp.models.files import metadata_of
from raysp.pi.files import FORMAT, name_of
from raysp.store.records import Store
from raysp.store.tensor_files import plain_tensors


@functools.cache
def mine():
    """Calibrations of the family of all networks here."""
    return known(members())


def student(kept=1.0):
    """A network that keeps a share of its ReLUs, and an early exit."""
    model = networks.gated("resnet18", ac_after=2, blocks=(), in_channels=3)
    for layer in model.relu_layers():
        layer.relu.set_mask(torch.arange(layer.relu.size).view(layer.relu.shape) < kept * layer.relu.size)
    return model


def trained(root, of, number=0, accuracy=80.0, **experiment):
    """A finished stage of a network; returns its directory."""
    record = recorded(of, ac_after=(2,))
    record["config"]["budget"] = number  # else they would be seeds of one configuration
    record["config"]["experiment"] |= experiment
    rows = []
    for name, layers in record["metrics"]["costs"].items():
        counted = {cost: sum(layer[cost] for layer in layers) for cost in ("relus", "macs", "depth", "params")}
        rows.append(row(budget=number, exit=name, image_size=16, val_accuracy=accuracy, **counted))
    return commit(root, rows, config=record["config"], metrics=record["metrics"])


def ask(**changes):
    return Question(**{"calibrations": mine()} | changes)


def test_every_row_has_what_its_network_is_predicted_to_take(tmp_path):
    model = student(0.3)
    trained(tmp_path, model)
    link = parse_link("10mbit,5ms")
    write_report([tmp_path], tmp_path / "out", ask(link=link))
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert tuple(table.columns) == (*COLUMNS, *PREDICTED)
    for found in table.to_dict("records"):
        expected = predict(model, found["exit"], mine(), [link, parse_link("lan"), parse_link("wan")])
        told = (found["pred_time_s"], found["pred_bytes"], found["pred_round_trips"])
        assert told == pytest.approx((expected.time_s, expected.bytes, expected.round_trips))
        over = {"10mbit,5ms": found["pred_link_s"], "lan": found["pred_lan_s"], "wan": found["pred_wan_s"]}
        assert over == pytest.approx(expected.modelled_s)
        assert (found["pred_link"], found["pred_from"], found["pred_fitted"]) == ("10mbit,5ms", "mine", 0)
    assert len(table) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert '"column":"pred_link_s"' in page and '"column":"pred_wan_s"' in page


def test_without_a_link_of_ones_own_there_is_no_column_of_it(tmp_path):
    trained(tmp_path, student())
    for link in (None, "lan", "wan"):
        table = read_report([tmp_path], ask(link=link and parse_link(link))).table
        assert not {"pred_link_s", "pred_link"} & set(table) and table["pred_wan_s"].notna().all()


def test_the_package_s_calibrations_are_asked_where_none_is_given(tmp_path):
    trained(tmp_path, student())
    table = read_report([tmp_path]).table
    assert table["pred_from"].str.startswith(("resnet18", "vgg16", "wrn22-8")).all()
    assert (table["pred_fitted"] > 0).all()  # width 4 is nobody's


def test_predicted_costs_make_a_front(tmp_path):
    for number, (kept, accuracy) in enumerate([(0.1, 70.0), (0.5, 80.0), (0.9, 75.0)]):
        trained(tmp_path, student(kept), number, accuracy)
    report = read_report([tmp_path], ask(costs=("pred_wan_s", "pred_bytes")))
    assert set(report.front["budget"]) == {0, 1}
    headings = tables_of(report)[FRONT][0].headings
    assert {"pred. WAN s", "pred. B"} <= set(headings)
    write_report([tmp_path], tmp_path / "out", ask(costs=("pred_wan_s", "pred_bytes")))
    assert "predicted private inference, WAN" in (tmp_path / "out" / "pareto.svg").read_text()


def test_predicted_stands_beside_measured(tmp_path):
    model, weights = student(0.5), {"bytes": 1, "sha256": "ab"}
    record = recorded(model, ac_after=(2,))
    stage = toy(number=7)
    with Store(root=tmp_path).lock() as store:
        whole = record_of(stage, [row()], config=record["config"], metrics=record["metrics"])
        store.commit(stage, whole, {"weights.safetensors": weights})
    told = predict(model, "final", mine())
    measured = {"format": FORMAT, "exit": "final", "protocol": "cheetah", "weights": weights}
    content = measured | {"time_s": told.time_s / 2, "bytes": told.bytes / 1.25}
    (store.directory(stage) / name_of("final", "cheetah")).write_text(json.dumps(content))
    sections = tables_of(read_report([tmp_path], ask()))
    for name in (FRONT, PREDICTION):
        assert {"PI s", "PI B", "pred. s", "pred. B"} <= set(sections[name][0].headings)
    assert "Predicted, not measured" in sections[PREDICTION][0].note and "3000 Mbit/s" in sections[PREDICTION][0].note
    (line,) = sections[MEASURED][0].cells
    assert any(cell.endswith("(+100%)") for cell in line) and any(cell.endswith("(+25.0%)") for cell in line)


def test_what_cannot_be_told_is_left_open_and_said_once(tmp_path):
    model = networks.gated("wrn22-8", ac_after=2, blocks=(), in_channels=3)
    trained(tmp_path, student())
    for number in (1, 2):
        trained(tmp_path, model, number)
    report = read_report([tmp_path], ask())
    assert report.table["pred_time_s"].notna().tolist().count(False) == 4
    said = [note for note in report.foretold.notes if note.startswith("Not predicted: norm")]
    assert said and len(said) == len(set(said))


def test_where_nothing_can_be_told_the_tables_say_why(tmp_path):
    trained(tmp_path, networks.gated("wrn22-8", ac_after=2, blocks=(), in_channels=3))
    (table,) = tables_of(read_report([tmp_path], ask(calibrations=known(members(model="wrn22-8")[:1]))))[PREDICTION]
    assert "Not predicted: " in table.note and table.cells


def test_a_network_of_ones_own_is_told_by_its_weights(tmp_path):
    model = student(0.2)
    directory = trained(tmp_path, model, model="custom", width=0, network={"name": "mynets:build", "sha256": "ab"})
    assert "pred_time_s" not in read_report([tmp_path], Question()).table
    deployed = drop_main_branches(model)
    (directory / "weights.safetensors").write_bytes(save(plain_tensors(deployed.state_dict()), metadata_of(deployed)))
    table = read_report([tmp_path], ask()).table.set_index("exit")
    assert table.loc["ac2", "pred_bytes"] == pytest.approx(predict(model, "ac2", mine()).bytes)


# ---- the command


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    said = capsys.readouterr()
    return stopped.value.code, " ".join((said.out + said.err).split())


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, kept in enumerate((0.1, 0.9)):
        trained(tmp_path / "run", student(kept), number, 70.0 + number)
    (tmp_path / "mine.json").write_text(json.dumps(calibration(members()).to_json()))
    return tmp_path


def test_limits_list_what_qualifies_and_what_comes_nearest(root, capsys):
    few, many = (predict(student(kept), "final", mine()) for kept in (0.1, 0.9))
    over_wan = few.modelled_s["wan"]
    code, said = run("run", "--calibration", "mine.json", "--link", "wan", "--max-seconds", f"{over_wan + 1:.0f}", capsys=capsys)
    assert code == 0 and "qualify: pred. WAN s at most" in said
    limits = ("--max-bytes", "1k", "--max-seconds", "1")
    code, said = run("run", "--calibration", "mine.json", *limits, capsys=capsys)
    assert code == 1
    assert "None qualifies: pred. s at most 1, pred. B at most 1,000" in said
    assert "(at most 1,000)" in said and "The nearest, with what they miss." in said
    code, said = run("run", "--calibration", "mine.json", "--max-bytes", f"{many.bytes + 1:.0f}", capsys=capsys)
    assert code == 0 and f"pred. B at most {many.bytes + 1:,.0f}" in said and many.bytes > 1e6
    code, said = run("run", "--calibration", "mine.json", "--link", "1mbit,1ms", "--max-seconds", "1", capsys=capsys)
    assert code == 1 and "pred. link s" in said and "1mbit,1ms 1 Mbit/s and 1 ms" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--link", "fast"], "link 'fast'; expected lan, wan, or a bandwidth above 0 and a round trip, such as 100mbit,20ms"),
        (["--link", "0mbit,1ms"], "link '0mbit,1ms'; expected lan, wan, or a bandwidth above 0"),
        (["--link", "1mbit,-1ms"], "link '1mbit,-1ms'; expected"),
        (["--costs", "pred_link_s"], "--costs pred_link_s without --link; expected one, such as 100mbit,20ms"),
        (["--costs", "pred_wan_s", "pred_wan_s"], "each once"),
        (["--max-seconds", "nan"], "--max-seconds 'nan'; expected a number"),
        (["--max-bytes", "30X"], "--max-bytes '30X'; expected a number"),
        (["--calibration", "folder"], "not a plain file"),
        (["--calibration", "broken.json"], "broken.json: not a calibration"),
        (["--max-seconds=-1"], "--max-seconds '-1'; expected a number"),
        (["--max-bytes", "lots"], "--max-bytes 'lots'; expected a number"),
        (["--calibration", "none.json"], "none.json; expected a file that `raysp pi calibrate` wrote"),
        (["--calibration", "text.json"], "text.json: not a calibration"),
        (["--calibration", ""], "--calibration is empty"),
        (["--calibration", "large.json"], "has no layer of any model here: it is of model resnet18, width 5"),
        (["--calibration", "dealer.json"], "expected ones of cheetah"),
        (["--calibration", "mine.json", "theirs.json"], "their costs can't be added"),
    ],
)
def test_bad_input_ends_with_2(arguments, message, root, capsys):
    (root / "text.json").write_text("{}")
    (root / "broken.json").write_text("{")
    (root / "folder").mkdir()
    others = {
        "large": calibration(members(image_size=8, width=5, num_classes=5), family={"model": "resnet18", "width": 5}),
        "dealer": calibration(members(), protocol="semi2k"),
        "theirs": calibration(members(), machine={"cpus": 99}),
    }
    for name, other in others.items():
        (root / f"{name}.json").write_text(json.dumps(other.to_json()))
    code, said = run("run", *arguments, capsys=capsys)
    assert code == 2 and message in said


def test_a_cost_over_a_link_that_has_its_own_column_is_that_column(root, capsys):
    code, _ = run("run", "--calibration", "mine.json", "--costs", "pred_link_s", "relus", "--link", "wan", capsys=capsys)
    front = pd.read_csv(root / "run" / "pareto.csv")
    assert code == 0 and front["pred_wan_s"].notna().all() and "pred_link_s" not in front


def test_predicted_costs_that_nobody_can_tell_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commit(tmp_path / "run", [row()])
    code, said = run("run", "--costs", "pred_wan_s", capsys=capsys)
    assert code == 2 and "no model here has pred_wan_s" in said
