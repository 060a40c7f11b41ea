"""What a person is shown while a sweep trains."""

import io
import time

import pytest
from rich.console import Console
from toy import diamond

from raysp.engine.progress import Progress
from raysp.planning.plan import Plan
from sweeps.summary import front_so_far

BASELINE = {
    "dataset": "digits",
    "selection": "val",
    "mask_method": "none",
    "exit": "final",
    "relus": 9000,
    "macs": 2e6,
    "depth": 16,
    "val_accuracy": 98.0,
}
PRUNED = BASELINE | {"mask_method": "senet", "budget": 900, "d_th": 0.3, "relus": 900, "val_accuracy": 95.5}
WORSE = PRUNED | {"relus": 1000, "val_accuracy": 90.0}


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def drawn(progress, console):
    with console.capture() as capture:
        console.print(progress._draw())
    return capture.get()


def test_the_live_table_has_jobs_by_stage_the_running_ones_and_the_front():
    stages = list(Plan(diamond()).stages.values())
    console = terminal()
    progress = Progress(
        stages[1:], lambda: 2, console, found=stages[:1], rows=[BASELINE], front=front_so_far, gpus=0.5, workers=2
    )
    with progress.show():
        progress.started(stages[1])
        progress.epoch(stages[1], {"epoch": 1, "loss": 0.25, "val_accuracy": 71.5, "time_s": 3600.0})
        table = drawn(progress, console)
        assert stages[1].name in table and "71.50 %" in table and "0.250" in table and f"1/{stages[1].epochs}" in table
        assert "all-ReLU" in table and "98.00" in table and "95.50" not in table
        assert f"0 of {len(stages) - 1} stages done" in table
        progress.finished(stages[1], [PRUNED, WORSE])
        time.sleep(1.1)  # a front that takes long to compute is drawn anew every second
        table = drawn(progress, console)
        assert "95.50" in table and "90.00" not in table, "the front alone"
        assert "nan" not in table.lower()
        assert f"1 of {len(stages) - 1} stages done" in table


@pytest.mark.parametrize(
    ("gpus", "workers", "spent", "unit"),
    [(0.25, 1, 0.25, "GPU-hours"), (1.0, 4, 4.0, "GPU-hours"), (0.0, 2, 2.0, "worker-hours")],
)
def test_hours_are_counted_in_devices(gpus, workers, spent, unit):
    stages = list(Plan(diamond()).stages.values())
    progress = Progress(stages, lambda: 1, Console(quiet=True), gpus=gpus, workers=workers)
    assert progress.device_hours() == (0.0, None, unit)
    progress.started(stages[0])
    progress.epoch(stages[0], {"epoch": 1, "time_s": 3600.0})
    epochs_left = sum(stage.epochs for stage in stages) - 1
    assert progress.device_hours() == (spent, pytest.approx(spent * epochs_left), unit)


def test_a_log_file_gets_plain_lines():
    stages = list(Plan(diamond()).stages.values())
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(stages, lambda: 1, console, front=front_so_far)
    with progress.show():
        progress.started(stages[0])
        for epoch in (1, 2, 3):
            progress.epoch(stages[0], {"epoch": epoch, "val_accuracy": 10.0 * epoch, "time_s": 0.1})
        progress.finished(stages[0], [PRUNED])
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2, "epochs that follow fast share a line"
    assert "epoch 1/" in lines[0] and lines[1].startswith("done")
    assert "\x1b" not in console.file.getvalue()


def test_what_failed_was_skipped_or_given_up_is_not_done():
    stages = list(Plan(diamond()).stages.values())
    console = terminal()
    progress = Progress(stages, lambda: 1, console)
    progress.finished(stages[0])
    progress.stopped(stages[4:])
    progress.failed(stages[1], "it failed", [stages[3]])
    assert f"(1/{len(stages)})" in console.file.getvalue().splitlines()[-1]
    assert f"1 of {len(stages)} stages done" in (summary := progress._summary())
    assert summary.endswith("; 2 stopped; 1 failed")
