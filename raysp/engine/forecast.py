"""What a plan will cost, said before anything trains.

Owns the words and the table; the figures are `raysp.planning.plan`'s and `raysp.engine.calibration`'s.
"""

import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from raysp.data.sources import Source
from raysp.engine.calibration import calibrate
from raysp.engine.options import RunOptions, Stopping
from raysp.engine.progress import clock_of
from raysp.engine.surroundings import cpus
from raysp.planning.halving import Halving
from raysp.planning.plan import Plan, Survey


def print_plan(plan: Plan, found: Survey, console: Console, stopping: Stopping = "none") -> None:
    """Show the jobs per stage, what is found, and the epochs against those of separate pipelines."""
    table = Table("stage", box=None, pad_edge=False)
    for column in ("jobs", "found", "to train", "epochs", "in separate pipelines"):
        table.add_column(column, justify="right")
    missing = {stage.key for stage in found.missing}
    epochs_left = sum(stage.epochs for stage in found.missing)
    for line in plan.counts(stage.key for stage in found.found):
        epochs = sum(s.epochs for s in plan.stages.values() if s.name == line.name and s.key in missing)
        cells = (line.jobs, line.found, line.jobs - line.found, epochs, line.separate_jobs)
        table.add_row(line.name, *map(str, cells))
    console.print(table)
    shared = len(plan.stages) - len(plan.leaves)
    plural = "" if len(plan.leaves) == 1 else "s"
    console.print(
        f"{len(plan.leaves)} configuration{plural} from {len(plan.stages)} stages, {shared} of them shared ancestors; "
        f"{epochs_left} epochs to train. Separate pipelines would train {plan.separate_epochs}, "
        f"{plan.separate_epochs / max(plan.epochs, 1):.1f}x the {plan.epochs} of this plan.",
        highlight=False,
        soft_wrap=True,
    )
    if stopping == "pareto":
        halved = sum(s.epochs for s in plan.stages.values() if not s.stoppable)
        halved += Halving(leaf for leaf in plan.leaves.values() if leaf.stoppable).epochs
        if halved == plan.epochs:
            console.print("Early stopping changes nothing here: no last stage has epochs enough, or others to compete with.")
            return
        console.print(
            f"With early stopping the plan trains at most {halved} epochs, {plan.separate_epochs / max(halved, 1):.1f}x fewer "
            "than by separate pipelines.",
            highlight=False,
            soft_wrap=True,
        )


def print_seconds(plan: Plan, found: Survey, sources: Sequence[Source], options: RunOptions, console: Console) -> None:
    """Try every kind of stage for some steps on this machine, and say how long the plan will take; or why that can't be said."""
    if (options.fixed_gpus or options.cuda_graph == "on") and not torch.cuda.is_available():
        console.print("How long that takes can't be tried here: stages are to have a GPU, and torch finds none.")
        return
    cores = cpus().whole
    if options.threads_per_stage > cores:
        console.print(f"How long that takes can't be tried here: {options.threads_per_stage} threads per stage on {cores} cores.")
        return
    gpus = options.gpus_here()
    clock = time.monotonic()
    with console.status("trying some steps of each kind of stage; Ctrl-C ends it, and the plan above stays"):
        calibration = calibrate(plan, sources, num_threads=options.threads_per_stage, gpus=gpus, cuda_graph=options.cuda_graph)
    slots, asked = (1, "") if options.inline else _room_here(options, gpus, cores)
    left, whole = calibration.of(found.missing), calibration.of(plan.stages.values())
    separate = sum(leaf.stands_for * calibration.of(leaf.lineage()) for leaf in plan.leaves.values())
    if slots:
        wall = clock_of(max(left / slots, calibration.chain(found.missing)))
        here = f"{wall} on this machine ({slots} stage{'s' if slots > 1 else ''} at once)"
    else:
        here = f"this machine has no room for a stage, which asks for {asked}"
    left_out = {
        "early stopping": options.stopping != "none",
        "compiling": options.compile != "off",
        "several stages on a GPU": options.gpus_per_stage == "auto",
        "sharing stages among workers": options.workers_per_stage > 1,
    }
    without = [what for what, is_asked in left_out.items() if is_asked]
    console.print(
        f"About {clock_of(left)} of computing to train{', without ' + ' or '.join(without) if without else ''}; {here}. The "
        f"whole plan takes {clock_of(whole)}, separate pipelines {clock_of(separate)}, {separate / whole:.1f}x as long. "
        f"Estimated in {time.monotonic() - clock:.0f} s, from some steps of each kind of stage on random images.",
        highlight=False,
        soft_wrap=True,
    )


def _room_here(options: RunOptions, gpus: float, cores: int) -> tuple[int, str]:
    """Stages at once for which this machine has room, counted as a run on Ray counts them, and what each asks for."""
    from raysp.engine.ray.cluster import Request  # Ray takes seconds to import

    request = Request(num_threads=options.threads_per_stage, gpus=gpus, workers=options.workers_per_stage)
    slots = request.slots([{"CPU": cores, "GPU": torch.cuda.device_count()}])
    return (slots if options.max_concurrent is None else min(slots, options.max_concurrent)), str(request)
