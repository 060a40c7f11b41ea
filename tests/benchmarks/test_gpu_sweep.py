"""The full-size sweep of a rented GPU, in miniature; what it keeps when the time is over; and the choice of its scale."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = str(ROOT / "benchmarks")


@pytest.fixture
def gpu_sweep(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_sweep

    return gpu_sweep


@pytest.mark.parametrize(("seconds", "scale"), [(0.0, 0.05), (10.0, 0.1), (123.4, 1.23), (1e9, 6.0)])
def test_the_largest_scale_that_fits_is_taken(gpu_sweep, seconds, scale):
    assert gpu_sweep.largest(lambda scale: 100 * scale - 1e-6, seconds) == scale


def rehearse(out, *flags):
    program = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(out), "--rehearse", *flags]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_the_paper_is_beside_and_what_is_late_is_left_out(gpu_sweep):
    paper = gpu_sweep._published("cifar100")
    row = {"mask_method": "senet", "relus": 21_000, "macs": 4e8, "depth": 12, "val_accuracy": 61.0, "test_accuracy": 60.0}
    of_masks = {"stage": "mask", "epochs": 15, "budget": 24_900, "time_s": 3.0, "rows": []}
    done = {"stage": "finetune", "epochs": 22, "time_s": 4.0, "rows": [row | {"budget": 24_900, "exit": "final"}]}
    found = [{"paper": paper}, {"trained": of_masks}, {"trained": done}, {"sweep_ended": 143, "seconds": 300.0, "told": True}]
    import gpu_table  # gpu_sweep's fixture has made it importable

    text = "\n".join(gpu_table.sweep_lines(found))
    assert "status 143, out of time" in text
    assert "mask of 24,900 15, finetune 22; 7 s in all" in text
    assert text.endswith("| 24,900 | final | 21,000 | 400.0 M |  | 12 | 61.00 | 60.00 | 69.1 | 21100 | 1.3 | 12 |")


@pytest.mark.slow
def test_all_of_a_rental_in_miniature(tmp_path):
    # Little of what would fit, so that all is trained on a busy machine too.
    found = rehearse(tmp_path, "--minutes", "2.9", "--epochs-scale", "0.1")
    assert [f for f in found if "failed" in f] == []
    rows = [row for f in found if "trained" in f for row in f["trained"]["rows"]]
    assert sorted(row["exit"] for row in rows) == sorted(["final", *["ac3", "final"] * 3])
    (chosen,) = (f for f in found if "scale" in f)
    assert chosen["scale"] == 0.1 and 0 < chosen["forecast_s"] < chosen["seconds"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"results.csv", "pareto.png", "sweep.tar.xz", "table.md"} <= names and len(names) <= 8
    with tarfile.open(tmp_path / "sweep.tar.xz") as archive:
        kept = archive.getnames()
    assert sum(name.endswith("record.json") for name in kept) == 8 and any(name.endswith("report.html") for name in kept)
    assert not [name for name in kept if name.endswith("safetensors")]


@pytest.mark.slow
def test_a_sweep_out_of_time_ends_and_says_so(tmp_path, monkeypatch, gpu_sweep):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    monkeypatch.setattr(gpu_sweep, "LEAST_S", 5.0)
    rental = gpu.Rental(tmp_path, 2.0, gpu.MINIATURE | {"sweep_s": 10.0, "epochs_scale": 50.0})
    gpu_sweep.the_sweep(rental)
    (ended,) = (f for f in rental.found if "sweep_ended" in f)
    assert (ended["sweep_ended"], ended["told"]) == (143, True)
    assert "out of time" in (tmp_path / "table.md").read_text()
    with tarfile.open(tmp_path / "sweep.tar.xz") as archive:
        assert "sweep/log.txt" in archive.getnames()
