"""Estimates by protocol in the report: tables, orders, the command."""

import pandas as pd
import pytest
from records import commit, row

from analysis.protocols import PROTOCOLS, Order, chosen_protocols, estimate_points, order_of, said_of
from analysis.report import ESTIMATES, Question, read_report, tables_of, write_report
from analysis.report.__main__ import main
from analysis.results import COLUMNS

ESTIMATED = ("garbled-circuits", "function-secret-sharing", "ckks")


def layers(relu_layers, kept, macs):
    """Convolutions with a ReLU layer of 512 values behind each; some of these keep ReLUs."""
    found = []
    for n, of_layer in enumerate(kept):
        counts = {"relus": 0, "relu_positions": 0, "macs": 0, "depth": 0, "params": 0}
        found.append(counts | {"layer": f"conv{n}", "kind": "conv 3x3, stride 1", "macs": macs, "depth": int(n > 0)})
        found.append(counts | {"layer": f"relu{n}", "kind": "ReLU", "relus": of_layer, "relu_positions": 512})
    assert sum(of_layer > 0 for of_layer in kept) == relu_layers
    return found


def model(root, number, accuracy, of_layers, **changes):
    counted = {name: sum(one[name] for one in of_layers) for name in ("relus", "macs", "depth")}
    metrics = {"costs": {"final": of_layers}}
    return commit(root, [row(budget=number, val_accuracy=accuracy, **(counted | changes))], metrics=metrics)


@pytest.fixture
def run(tmp_path):
    root = tmp_path / "run"
    model(root, 0, 60.0, layers(2, [10, 10], 1000))
    model(root, 1, 70.0, layers(1, [100, 0, 0], 3000))  # one layer alone: few levels, but many ReLUs
    model(root, 2, 80.0, layers(4, [100, 100, 100, 100], 4000))
    return root


def test_the_report_has_a_column_for_each_protocol(run, tmp_path):
    report = write_report([run], tmp_path / "out", Question(protocols=PROTOCOLS))
    (table,) = tables_of(report)[ESTIMATES]
    at = {name: table.headings.index(f"{'pred.' if name == 'cheetah' else 'est.'} {name}") for name in PROTOCOLS}
    by_relus = {line[table.headings.index("ReLUs")]: line for line in table.cells}
    assert by_relus["20"][at["garbled-circuits"]] == "0.000438 s, 23,680 B, before 381,760 B (1)"
    assert by_relus["20"][at["function-secret-sharing"]] == "16,704 B, before 38,035 B (1)"
    assert by_relus["20"][at["ckks"]] == "245 s (2)" and by_relus["100"][at["ckks"]] == "153 s (1)"
    assert {line[at["cheetah"]] for line in table.cells} == {"-"}  # these records don't say which network they are of
    assert table.note.startswith("Estimated from published constants, not measured here")
    for name in ("tables.md", "report.html"):
        written = (tmp_path / "out" / name).read_text()
        assert "Estimates by protocol" in written and "Estimated from published constants, not measured here" in written
    assert tuple(pd.read_csv(tmp_path / "out" / "results.csv").columns) == COLUMNS


def test_without_being_asked_there_is_none(run):
    report = read_report([run])
    assert ESTIMATES not in tables_of(report) and report.estimated.costs == {}


def test_what_a_protocol_does_to_the_order(run):
    report = read_report([run], Question(protocols=ESTIMATED))
    orders = {name: order_of(report.points, report.front, name, costs) for name, costs in report.estimated.costs.items()}
    circuits, ckks = orders["garbled-circuits"], orders["ckks"]
    assert (circuits.models, circuits.compared, circuits.worth) == (3, "online_s", 3)
    assert circuits.correlations == pytest.approx({"relus": 1.0, "macs": 1.0, "depth": 1.0})
    assert ckks.correlations == pytest.approx({"relus": 0.5, "macs": 0.5, "depth": 0.5})
    assert ckks.worth == 2  # the first model costs more than the second, and is less accurate
    assert orders["function-secret-sharing"].compared == "online_bytes"
    first = report.front.loc[ckks.places.idxmin()]
    assert (first["relus"], f"the first is {first['key'][:12]} (final)" in said_of(ckks, report.front)) == (100, True)


def test_equal_models_share_a_place_and_have_no_correlation(tmp_path):
    for number in range(2):
        model(tmp_path, number, 70.0, layers(1, [10], 1000))
    report = read_report([tmp_path], Question(protocols=("ckks",)))
    order = order_of(report.points, report.front, "ckks", report.estimated.costs["ckks"])
    assert isinstance(order, Order) and list(order.places) == [1, 1] and order.worth == 2
    said = said_of(order, report.front)
    assert "- with ReLUs" in said and "and 1 more" in said


def test_what_can_t_be_estimated_is_left_open_and_said(run):
    commit(run, [row(budget=7, val_accuracy=90.0, relus=500, macs=50_000, depth=9)])  # of before costs by layer were kept
    pooled = layers(1, [9], 10)
    pooled[0] |= {"comparisons": 3, "kind": "MaxPool2d"}
    model(run, 8, 95.0, pooled, relus=600, macs=60_000, depth=10)
    report = read_report([run], Question(protocols=ESTIMATED))
    assert sorted(report.estimated.untold.values()) == [1, 1]
    (table,) = tables_of(report)[ESTIMATES]
    assert sum(line[-4:-1] == ["-"] * 3 for line in table.cells) == 2
    assert "Not estimated: 1 of the models: its record has no costs by layer." in table.note
    assert "Not estimated: 1 of the models: layer conv0 takes maxima (MaxPool2d)" in table.note
    assert "over 3 models" in table.note
    (predicted,) = tables_of(read_report([run], Question(protocols=("cheetah",))))[ESTIMATES]
    assert "Not estimated: 1" not in predicted.note


def test_of_many_reasons_some_are_named(tmp_path):
    for number in range(7):
        bad = layers(1, [9], 10)
        bad[0] |= {"comparisons": 3, "layer": f"pool{number}"}
        model(tmp_path, number, 70.0, bad)
    (table,) = tables_of(read_report([tmp_path], Question(protocols=("ckks",))))[ESTIMATES]
    assert table.note.count("takes maxima") == 5 and table.note.endswith("Not estimated: 2 more.")


def test_where_nothing_can_be_estimated_no_order_is_told(tmp_path):
    commit(tmp_path, [row()])
    report = read_report([tmp_path], Question(protocols=PROTOCOLS))
    (table,) = tables_of(report)[ESTIMATES]
    assert "rank correlation" not in table.note and table.cells[0][-5:-1] == ["-"] * 4


def test_cheetah_is_what_is_predicted(run):
    points = read_report([run]).points.assign(pred_lan_s=[1.0, 2.0, 3.0], pred_bytes=[10.0, 20.0, None])
    (costs,) = estimate_points(points, [], ["cheetah"]).costs.values()
    assert list(costs["online_s"]) == [1.0, 2.0, 3.0] and costs["online_bytes"].isna().tolist() == [False, False, True]
    assert costs["offline_bytes"].isna().all()


def test_names_are_checked():
    assert chosen_protocols([]) == PROTOCOLS and chosen_protocols(["ckks"]) == ("ckks",)
    for bad in (["tfhe"], ["ckks", "ckks"], [""]):
        with pytest.raises(ValueError, match="protocol"):
            chosen_protocols(bad)


def test_the_flag_s_help_names_them_all(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in PROTOCOLS)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--protocols"], 0, "function-secret-sharing, by bytes: rank correlation over 3 models"),
        (["run", "--protocols", "ckks"], 0, "ckks, by seconds: rank correlation over 3 models 0.50 with ReLUs"),
        (["run", "--protocols", "tfhe"], 2, f"protocol 'tfhe'; expected of: {', '.join(PROTOCOLS)}"),
        (["--protocols", "run"], 2, "give it before --protocols"),
    ],
)
def test_the_command(arguments, status, message, run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).split())
    assert stopped.value.code == status


def test_while_nothing_is_finished_there_are_no_estimates(tmp_path):
    (tmp_path / "stages").mkdir()
    report = read_report([tmp_path], Question(protocols=PROTOCOLS))
    assert ESTIMATES not in tables_of(report) and all(costs.empty for costs in report.estimated.costs.values())


def test_models_on_other_data_are_compared_apart(run):
    model(run, 9, 50.0, layers(1, [5], 10), dataset="others")
    tables = tables_of(read_report([run], Question(protocols=("ckks",))))[ESTIMATES]
    assert [len(table.cells) for table in tables] == [3, 1]
    assert "over 3 models" in tables[0].note and "over 1 model " in tables[1].note
