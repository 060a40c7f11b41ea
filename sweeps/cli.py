"""The command line that all sweeps share.

Owns flags, their translation into a chain builder and run options, the table at the end, and exit statuses: 0 all done, 1 a stage
failed, 2 bad input (nothing was trained), 130 interrupted.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import arg

from analysis.report import Report, write_report
from raysp.chain import ChainBuilder
from raysp.data import open_source
from raysp.plan import Outcome, Plan, survey
from raysp.presets import PRESETS, Preset, PresetName
from raysp.schedules import GammaSchedule
from raysp.stage import Stage
from raysp.store import NoLongerOwner, Store, StoreBusy
from raysp.sweep import RunOptions, print_plan, run_sweep

Nothing = Literal["none"]
THE_PRESETS = "(default: the preset's)"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of every sweep. What is not given comes from the preset."""

    preset: PresetName = "quick"
    """Data set, network, recipes and axes. `quick` takes minutes on two CPU cores; `paper-*` are the paper's, for a GPU."""
    budgets: Annotated[tuple[float, ...] | None, arg(metavar="RELUS ...", help_behavior_hint=THE_PRESETS)] = None
    """ReLUs to keep: units (24900), or shares of the network's ReLUs when below 1 (0.1)."""
    d_th: Annotated[tuple[float | Nothing, ...] | None, arg(metavar="SHARE|none ...", help_behavior_hint=THE_PRESETS)] = None
    """Threshold of gated branching: blocks whose inner ReLU keeps at most this share of its positions (0 to 1) become shallow;
    `none` gates no block."""
    gamma: Annotated[tuple[GammaSchedule, ...] | None, arg(metavar="linear|cosine ...", help_behavior_hint=THE_PRESETS)] = None
    """How the gate grows from 0 to 1 over the epochs."""
    ac_after: Annotated[tuple[int | Nothing, ...] | None, arg(metavar="STAGE|none ...", help_behavior_hint=THE_PRESETS)] = None
    """Stage (counted from 1) after which an auxiliary classifier is placed, or `none`; each value is a model of its own."""
    seeds: Annotated[tuple[int, ...] | None, arg(metavar="SEED ...", help_behavior_hint=THE_PRESETS)] = None
    """Each seed trains the whole chain once more."""
    dataset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=THE_PRESETS)] = None
    """`digits`, `cifar10`, `cifar100`, or `imagefolder:PATH` for a tree with train/ and test/ or val/, a folder per class."""
    data_dir: Path = Path("data")
    """Where CIFAR lies, or is downloaded to."""
    image_size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """Height and width in pixels that images are resized to; by default the data set's own, 32 for an image folder."""
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=THE_PRESETS)] = None
    """`resnet18` or `wrn22-8`."""
    width: Annotated[int | None, arg(metavar="CHANNELS", help_behavior_hint=THE_PRESETS)] = None
    """Channels of the network's first residual stage."""
    epochs_scale: float = 1.0
    """Multiplies every stage's epochs, learning-rate milestones and gate epochs with them."""
    storage: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/<preset>)")] = None
    """Results directory."""
    plan: bool = False
    """Print the plan, run nothing."""
    inline: bool = False
    """Run in this process, without Ray, one stage after the other."""
    address: Annotated[str | None, arg(metavar="HOST:PORT|local", help_behavior_hint="")] = None
    """Address of a Ray cluster, or `local` to start one here; by default the one that `ray start` started on this machine, else a
    local one."""
    max_concurrent: Annotated[int | None, arg(metavar="STAGES", help_behavior_hint="")] = None
    """Stages at once; by default as many as the cluster's CPUs or GPUs allow."""
    workers_per_stage: int = 1
    """Training processes per stage (only 1 for now)."""
    gpus_per_stage: Annotated[float | None, arg(metavar="GPUS", help_behavior_hint="")] = None
    """GPUs that each stage holds; a share such as 0.25 packs several on one, 0 trains on the CPU. By default 1 where there are
    GPUs."""
    threads_per_stage: int = 1
    """CPU threads per stage. More threads finish one stage sooner, but give (slightly) other results: float sums depend on it."""
    verbose: bool = False
    """Show Ray's own messages, and the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The values to sweep, from the flags or the preset."""

    budgets: tuple[float, ...]
    d_th: tuple[float | None, ...]
    gamma: tuple[GammaSchedule, ...]
    ac_after: tuple[int | None, ...]
    seeds: tuple[int, ...]


MakeStages = Callable[[ChainBuilder, Axes], Sequence[Stage]]


def main(make_stages: MakeStages, description: str) -> None:
    """Parse the command line, run the sweep, exit.

    Args:
        make_stages: from a chain builder and the axes to the leaves of the sweep.
        description: shown by `--help`.
    """
    options = tyro.cli(Options, description=description, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)  # logs know no width
    errors = Console(stderr=True, highlight=False)
    try:
        status = _run(options, make_stages, console)
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from the last checkpoints")
        status = 130
    except (ValueError, StoreBusy, NoLongerOwner, OSError) as error:
        if options.verbose:
            raise
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        status = 2
    sys.exit(status)


def _run(options: Options, make_stages: MakeStages, console: Console) -> int:
    preset = PRESETS[options.preset]
    run_options = RunOptions(
        inline=options.inline,
        address=options.address,
        max_concurrent=options.max_concurrent,
        workers_per_stage=options.workers_per_stage,
        gpus_per_stage=options.gpus_per_stage,
        threads_per_stage=options.threads_per_stage,
        verbose=options.verbose,
    )
    source = open_source(options.dataset or preset.dataset, options.image_size, options.data_dir.expanduser())
    builder = ChainBuilder(preset, source.config, model=options.model, width=options.width, epochs_scale=options.epochs_scale)
    leaves = make_stages(builder, _axes(options, preset, builder))
    root = (options.storage or Path("runs") / options.preset).expanduser().absolute()
    _check_storage(root)
    if options.plan:
        plan = Plan(leaves)
        print_plan(plan, survey(plan, Store(root=root)), console)
        return 0
    outcome = run_sweep(leaves, root, source, run_options, labels={"preset": options.preset}, console=console)
    _print_end(write_report(root), outcome, root, console)
    return 0 if outcome.ok else 1


def _axes(options: Options, preset: Preset, builder: ChainBuilder) -> Axes:
    # A network with fewer stages than the preset's has its classifier before its own last one.
    placements = tuple(dict.fromkeys(a and min(a, builder.num_stages - 1) for a in preset.ac_after))
    for name in ("budgets", "d_th", "gamma", "ac_after", "seeds"):
        if getattr(options, name) == ():
            raise ValueError(f"--{name.replace('_', '-')} has no value; expected one or more, or leave it out for the preset's")
    return Axes(
        budgets=options.budgets or preset.budgets,
        d_th=tuple(None if d == "none" else d for d in options.d_th or ()) or preset.d_th,
        gamma=options.gamma or preset.gamma,
        ac_after=tuple(None if a == "none" else a for a in options.ac_after or ()) or placements,
        seeds=options.seeds or preset.seeds,
    )


def _check_storage(root: Path) -> None:
    existing = next(path for path in (root, *root.parents) if path.exists() or path.is_symlink())
    if not existing.is_dir():
        raise ValueError(f"storage {root} can't be made: {existing} is not a directory; give another --storage")
    for directory in (existing, root / "stages"):
        if directory.exists() and not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"storage {root} can't be written: no permission in {directory}; give another --storage")


def _print_end(report: Report, outcome: Outcome, root: Path, console: Console) -> None:
    for error in report.damaged:
        console.print(f"[yellow]left out[/] {escape(str(error))}")
    table = Table(title="Pareto front: accuracy up; ReLUs, MACs and depth down", title_justify="left", box=None, pad_edge=False)
    columns = ("budget", "d_th", "gamma", "AC", "seed", "exit", "ReLUs", "MACs", "depth", "val %", "test %")
    for column in columns:
        table.add_column(column, justify="left" if column in ("gamma", "exit") else "right")
    for row in report.front.to_dict("records"):
        cells = (row["budget"], row["d_th"], row["gamma"], row["ac_after"], row["seed"], row["exit"], row["relus"])
        numbers = (f"{row['macs'] / 1e6:.2f}M", row["depth"], f"{row['val_accuracy']:.2f}", f"{row['test_accuracy']:.2f}")
        table.add_row(*("-" if pd.isna(cell) else str(cell) for cell in (*cells, *numbers)))
    console.print()
    console.print(table)
    console.print(
        f"{len(report.table)} rows in {escape(str(root / 'results.csv'))}; front in pareto.csv and pareto.png beside it",
        soft_wrap=True,
    )
    if not outcome.ok:
        console.print(f"[bold red]{len(outcome.failed)} stages failed, {len(outcome.skipped)} were skipped:[/]")
        for message in outcome.failed.values():
            console.print(f"  {escape(message)}", soft_wrap=True)
