"""How long a report of many models takes, the prediction of their private inference, and the front of many more.

Makes finished stages that nobody trained, as large as those of the paper's recipe (180 epochs, 17 ReLU layers), and reports on
them.
"""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from tyro.conf import arg

from analysis.pareto import DEFAULT_OBJECTIVES, pareto_front
from analysis.predictions import foretell
from analysis.records import read_runs
from analysis.report import write_report
from raysp.latency.known import packaged
from raysp.models import build_model
from raysp.models.costs import count_costs
from raysp.store.record_files import RECORD_FORMAT, sealed
from raysp.store.records import RECORD, label_of


def main(
    models: Annotated[int, arg(help="fine-tuned models, one row each")] = 10_000,
    rows: Annotated[int, arg(help="rows of four objectives for the front")] = 1_000_000,
    keep: Annotated[Path | None, arg(help="write records and report here, and leave them")] = None,
) -> None:
    """Print the seconds that both take."""
    rng = np.random.default_rng(0)
    accuracy, relus = rng.random(rows), 10 ** rng.uniform(3, 5.7, rows)
    shapes = {
        "uniform": np.c_[accuracy, rng.random((rows, 3))],
        "trade-off": np.c_[8 * np.log10(relus) + 2 * accuracy, relus, 10 ** rng.uniform(7, 8.7, rows), rng.integers(8, 17, rows)],
    }
    for name, values in shapes.items():
        table = pd.DataFrame(values, columns=list(DEFAULT_OBJECTIVES))
        started, cpu = time.perf_counter(), time.process_time()
        front = pareto_front(table)
        print(f"front of {rows:,} rows, {name}: {len(front):,} rows in {time.perf_counter() - started:.2f} s "
              f"({time.process_time() - cpu:.2f} s of one core)")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        root = keep or Path(scratch)
        make_records(root, models)
        runs = read_runs([root])
        started = time.perf_counter()
        foretold = foretell(runs, packaged(), None, is_own=False)
        print(f"private inference of {len(foretold.columns):,} rows, predicted: {time.perf_counter() - started:.2f} s")
        started = time.perf_counter()
        report = write_report([root], root / "report")
        size = (root / "report" / "report.html").stat().st_size / 1e6
        print(f"report of {len(report.table):,} rows: {time.perf_counter() - started:.1f} s, page of {size:.1f} MB")


def make_records(root: Path, models: int) -> None:
    """Write finished stages as a store would."""
    random = np.random.default_rng(0)
    network = build_model("resnet18", num_classes=100, width=16)
    layers = count_costs(network).by_layer()
    blocks = [name for name, _ in network.gated_blocks()]
    experiment = {"data": {"num_classes": 100, "image_size": 32, "channels": 3}, "model": "resnet18", "width": 16, "seed": 0}
    for number in range(models):
        gated = [name for name in blocks[:6] if random.random() < 0.5]
        share = float(random.random())
        budget = int(139_264 * share)
        choices = {
            "dataset": "cifar100", "model": "resnet18", "width": 16, "image_size": 32, "epochs": 180, "seed": 0,
            "selection": "val", "mask_method": ("senet", "snl")[number % 2], "granularity": "pixel", "budget": budget,
            "d_th": (None, 0.05, 0.1)[number % 3], "exit": "final", "relus": budget, "macs": int(random.integers(20, 36)) * 10**6,
            "depth": int(random.integers(10, 17)), "params": 700_000, "beta": 1000.0,
            "val_accuracy": 50 + 25 * share + float(random.random()), "test_accuracy": 49 + 25 * share + float(random.random()),
        }  # fmt: skip
        history = [
            {"epoch": e + 1, "loss": float(random.random()), "val_accuracy": 75 * float(random.random()), "time_s": 30.0}
            for e in range(180)
        ]
        record: dict[str, Any] = {
            "format": RECORD_FORMAT, "key": hashlib.sha256(str(number).encode()).hexdigest(), "stage": "finetune", "version": 2,
            "config": {"experiment": experiment, "number": number}, "parents": {}, "files": {}, "rows": [choices],
            "metrics": {"costs": {"final": layers}, "gated_blocks": gated}, "history": history, "time_s": 5400.0, "labels": {},
            "host": {"workers": 1},
        }  # fmt: skip
        directory = root / "stages" / label_of(record)
        directory.mkdir(parents=True)
        (directory / RECORD).write_bytes(sealed(record))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
