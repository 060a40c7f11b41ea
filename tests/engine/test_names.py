"""What stages are called in one line."""

import dataclasses
import io

import pytest
from quick import builder
from rich.console import Console
from toy import toy

from raysp.engine.names import ShortNames
from raysp.engine.progress import Progress
from raysp.methods.choices import Choice
from raysp.planning.plan import Plan


def stages_of(*choices):
    return list(Plan(map(builder(1.0).chain, choices)).stages.values())


def names_of(stages):
    names = ShortNames(stages)
    return [names.of(stage) for stage in stages]


def test_a_name_says_what_tells_a_stage_from_others_of_its_kind():
    assert names_of(stages_of(Choice(budget=435), Choice(budget=870))) == [
        "baseline seed 0",
        "sensitivity density 0.1, seed 0",
        "mask 435, senet",
        "finetune 435, senet",
        "mask 870, senet",
        "finetune 870, senet",
    ]
    several = names_of(stages_of(*(Choice(budget=435, d_th=0.1, gamma=g, seed=s) for g in ("linear", "cosine") for s in (0, 1))))
    assert "mask 435, senet, seed 1" in several
    assert [name for name in several if "cosine" in name] == [
        f"finetune 435, senet, seed {seed}, cosine over 6" for seed in (0, 1)
    ]


def test_no_two_stages_have_one_name():
    gates = [Choice(budget=435, d_th=0.1, gb_init=start, kernel_size=k) for start in ("random", "least-squares") for k in (3, 5)]
    names = names_of(stages_of(*gates))
    assert len(set(names)) == len(names)
    alike = [dataclasses.replace(toy(number=n), note="seed 0") for n in (1, 2)]
    assert names_of(alike) == [f"toy seed 0 ({stage.key[:12]})" for stage in alike]
    assert names_of([toy()]) == [toy().label], "without a note there is only the directory"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_running_jobs_by_name_in_full(width):
    choices = [
        Choice(budget=435, d_th=0.1, gamma=g, gb_init=s) for g in ("linear", "cosine") for s in ("random", "least-squares")
    ]
    stages = stages_of(*choices, Choice(budget=870))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    progress = Progress(stages, lambda: 2, console)
    for stage in stages:
        progress.started(stage)
        progress.epoch(stage, {"epoch": 1, "loss": 1.234, "val_accuracy": 91.5, "time_s": 4000.0})
    with console.capture() as capture:
        console.print(progress._draw())
    table = capture.get()
    assert "mask 435, senet " in table
    assert all(stage.key[:12] not in table for stage in stages)
    assert all(len(line) <= width for line in table.splitlines())
    assert table.count("91.50 %") == table.count("1.234") == len(stages), "figures are whole, whatever a name takes"
    assert "…" not in table


def test_lines_of_a_log_name_the_stage_first_and_its_directory_last():
    stage = stages_of(Choice(budget=435))[2]
    console = Console(file=io.StringIO(), width=200)
    progress = Progress([stage], lambda: 1, console)
    progress.started(stage)
    progress.finished(stage)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("done     mask 435, senet in 00:00") and line.endswith(f"  {stage.label}")
