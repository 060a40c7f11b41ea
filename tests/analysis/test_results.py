"""The columns of results.csv that follow from others."""

import io

import pandas as pd
import pytest
from records import commit, record_of, row
from toy import toy

from analysis.report import read_report
from analysis.results import ESTIMATED, results_table


def test_estimates_are_the_published_constants(tmp_path):
    layers = {"final": [{"relus": 60}, {"relus": 40}, {"relus": 0}]}
    commit(tmp_path, [row(relus=100, macs=10**6)], metrics={"costs": layers})
    found = read_report([tmp_path]).table.iloc[0]
    online = 100 * (18.25e-6 + 3.57e-6) + 1e6 * 0.78e-9
    assert found["est_delphi_online_lan_s"] == pytest.approx(online)
    assert found["est_delphi_online_wan_s"] == pytest.approx(online + 8 * 118_400 / 400e6 + 3 * 0.04)
    assert found["est_delphi_offline_lan_s"] == pytest.approx(100 * 38.1e-6 + 0.52)
    assert found["est_delphi_online_bytes"] == 118_400
    assert found["est_delphi_offline_bytes"] == 1_908_800
    assert all(name.startswith("est_") for name in ESTIMATED)


def test_a_row_names_the_network_that_it_started_from():
    base = record_of(toy(name="baseline"), [row(mask_method="none")])
    tuned = record_of(toy(name="finetune"), [row()], parents={"baseline": {"key": base["key"]}})
    orphan = record_of(toy(name="finetune", number=1), [row(budget=7)], parents={"baseline": {"key": "elsewhere"}})
    table = results_table([base, tuned, orphan]).set_index("key")
    assert table.loc[tuned["key"], "baseline"] == table.loc[base["key"], "baseline"] == table.loc[base["key"], "configuration"]
    assert table.loc[orphan["key"], "baseline"] == "elsewhere"


@pytest.mark.parametrize("digits", ["482811010285", "12345e678901", "000000000017", "1e0000000000", "4e70ab912345"])
def test_no_program_takes_the_name_of_a_configuration_for_a_number(digits, monkeypatch):
    base = record_of(toy(name="baseline"), [row(mask_method="none")])
    tuned = record_of(toy(name="finetune"), [row()], parents={"baseline": {"key": base["key"]}})
    monkeypatch.setattr("analysis.results.configurations", lambda records: dict.fromkeys((base["key"], tuned["key"]), digits))
    written = results_table([base, tuned]).to_csv(index=False)
    read = [pd.read_csv(io.StringIO("\n".join(written.splitlines()[:: n + 1][:2]))) for n in (0, 1)]  # a row alone, each time
    for alone in read:
        assert alone["configuration"].tolist() == alone["baseline"].tolist() == [f"c-{digits}"]
    assert len(read[0].merge(read[1], left_on="baseline", right_on="configuration")) == 1
