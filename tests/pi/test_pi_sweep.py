"""`--measure-pi`, as a user meets it."""

import importlib.util
import io

import pandas as pd
import pytest
from commands import TINY, sweep
from records import finished
from rich.console import Console

from analysis.report import read_report
from raysp.pi import PartyFault
from raysp.store.tensor_files import DamagedFile
from sweeps import measure

HERE = importlib.util.find_spec("spu") is not None
NEEDED = "private inference needs the extra pi: pip install -e '.[pi]'"


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason=NEEDED)
def test_a_sweep_measures_its_models_once(tmp_path):
    run = [*TINY, "--inline", "--measure-pi", "all", "--storage", tmp_path / "run"]
    first = sweep(*run, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert f"private inference: {len(table)} models, 0 of them measured already" in first.stdout
    assert table["pi_time_s"].notna().all()
    assert set(table["pi_protocol"]) == {"cheetah: real two-party run"}
    assert table.sort_values("relus")["pi_bytes"].is_monotonic_increasing
    again = sweep(*run, cwd=tmp_path)
    assert again.returncode == 0
    assert f"private inference: {len(table)} models, {len(table)} of them measured already" in again.stdout


def test_a_measurement_that_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    for number in range(4):
        measured = finished(tmp_path, number, relus=100 + number, val_accuracy=50.0 + number)
    measured(1.0, 10.0)
    asked = []

    def stand_in(directory, **given):
        asked.append(directory)
        if len(asked) == 2:
            raise PartyFault("party 0 was ended by signal 9 in mid-run")
        if len(asked) == 3:
            raise DamagedFile(tmp_path / "weights", "cut off")
        return directory, {"time_s": 1.0, "bytes": 2e6, "others_cores": 0.5}

    monkeypatch.setattr(measure, "measure_stored", stand_in)
    console = Console(file=io.StringIO(), width=200)
    assert not measure.measure_models("front", read_report([tmp_path]), tmp_path, console)
    said = console.file.getvalue().splitlines()
    assert said[0] == "private inference: 4 models, 1 of them measured already"
    assert [line.split()[0] for line in said[1:]] == ["measured", "note", "not", "not"]
    assert "0.5 cores busy" in said[2]
    assert "101 ReLUs: party 0 was ended by signal 9" in said[3]
    assert "cut off" in said[4]
