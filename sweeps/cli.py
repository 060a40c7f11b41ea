"""What every sweep's command line shares: where and how to run, what is printed at the end, exit statuses.

Owns the flags that don't change what is compared, and the statuses: 0 all done, 1 a stage or a measurement failed or the run
broke off (the results root was lost, a disk is full), 2 bad input (nothing was trained), 130 interrupted, 143 terminated. The
flags that are swept are `sweeps.axes`'.
"""

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape
from tyro.conf import arg

from analysis.report import Report, read_report, write_report
from raysp.data.config import Selection
from raysp.data.sources import Source, open_source
from raysp.engine import termination
from raysp.engine.forecast import print_plan, print_seconds
from raysp.engine.options import Compile, RunOptions
from raysp.engine.sweep import BrokenOff, run_sweep
from raysp.pi import require_engine
from raysp.planning.halving import Stopping
from raysp.planning.plan import Plan, survey
from raysp.planning.proposals import Search, proposed
from raysp.stages.presets import Preset
from raysp.store.location import Location, Unreachable, locate
from raysp.store.lock import StoreBusy
from raysp.store.manifest import Manifest, manifest_of, write_manifest
from raysp.store.records import NoLongerOwner, Store
from raysp.store.stage import Stage
from raysp.training.recipes import Precision
from sweeps.ending import front_so_far, print_failures, print_report
from sweeps.private import Which, measure_models
from sweeps.terminal import consoles

THE_PRESETS = "(default: the preset's)"


class _NotGiven(tuple[()]):
    """What a flag of several values holds when it was not given; with no value behind it, it holds another empty tuple."""


NOT_GIVEN: tuple[Any, ...] = _NotGiven()


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of every sweep."""

    dataset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=THE_PRESETS)] = None
    """`digits`, `cifar10`, `cifar100`, or `imagefolder:PATH` for a tree with train/ and test/ or val/, a folder per class."""
    data_dir: Path = Path("data")
    """Where CIFAR lies, or is downloaded to."""
    image_size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """Height and width that images get, a multiple of 8 (wrn22-8: 4, vgg16: 16); by default their own, of image folders 32."""
    selection: Annotated[Selection | None, arg(metavar="val|test", help_behavior_hint=THE_PRESETS)] = None
    """Part that chooses the best epoch: `val` is held out of the training part; `test` is the paper's way, and flatters."""
    width: Annotated[int | None, arg(metavar="CHANNELS", help_behavior_hint=THE_PRESETS)] = None
    """Channels of the network's first stage."""
    epochs_scale: float = 1.0
    """Multiplies every stage's epochs, and learning-rate milestones and the preset's gate epochs with them."""
    precision: Precision = "fp32"
    """What steps are computed in; `bf16` (autocast) trains other models than `fp32`. Accuracies are measured in float32."""
    seeds: Annotated[tuple[int, ...], arg(metavar="SEED ...", help_behavior_hint="(default: 0)")] = NOT_GIVEN
    """Each seed trains the whole chain once more."""
    storage: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="(default: runs/<preset>)")] = None
    """Results directory, or a URL such as s3://bucket/run. With several machines it must be one that all of them see."""
    plan: bool = False
    """Print the plan and how long it will take here, by some steps of each kind of stage; train nothing else."""
    inline: bool = False
    """Run in this process, without Ray, one stage after the other."""
    address: Annotated[str | None, arg(metavar="HOST:PORT|local", help_behavior_hint="")] = None
    """Ray cluster, or `local` to start one here; by default what `ray start` started on this machine, else a local one."""
    max_concurrent: Annotated[int | None, arg(metavar="STAGES", help_behavior_hint="")] = None
    """Stages at once; by default as many as the cluster's CPUs or GPUs allow."""
    workers_per_stage: int = 1
    """Training processes per stage, which share each batch under Ray Train."""
    gpus_per_stage: Annotated[float | None, arg(metavar="GPUS", help_behavior_hint="")] = None
    """GPUs that each worker of a stage holds; 0.25 packs four on one, 0 trains on the CPU. By default 1 where there are GPUs."""
    threads_per_stage: int = 1
    """CPU threads of each worker of a stage. More finish it sooner, but change results in their last digits (order of sums)."""
    compile: Compile = "off"
    """Compile training steps; `cuda-graphs` on GPUs. Needs a C++ compiler and 30 s a stage, changes results' last digits."""
    local_batchnorm: bool = False
    """With several workers on GPUs: take batch norm's statistics over each worker's part of a batch, not over the whole batch."""
    stopping: Stopping = "none"
    """`pareto` gives up half of those left at 1/8, 1/4 and 1/2 of their last stage: the ones that add least to the front."""
    retries: int = 1
    """How often a stage is tried again when its worker or machine dies; what its own code raises is not."""
    measure_pi: Annotated[Which | None, arg(metavar="front|all", help_behavior_hint="")] = None
    """When all is trained, run the models on the front (or all) under private inference, here; needs the extra `pi`."""
    verbose: bool = False
    """Show Ray's own messages, and the traceback of an error."""

    def open(self, preset: Preset) -> Source:
        """The data set: the flags', or the preset's."""
        selection = self.selection or preset.selection
        return open_source(
            preset.dataset if self.dataset is None else self.dataset, self.image_size, self.data_dir.expanduser(), selection
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a sweep wants done."""

    leaves: Sequence[Stage]
    """A stage per configuration."""
    sources: Sequence[Source]
    """The data sets that they read."""
    name: str
    """The preset's, which names the default results directory and stands in the rows."""
    note: str = ""
    """What the user should know before it starts."""
    search: Search | None = None
    """Proposes leaves, while the sweep runs, beyond these."""


Flags = TypeVar("Flags")


def main(flags_type: type[Flags], prepare: Callable[[Flags], Work], description: str) -> None:
    """Parse the command line, run the sweep, exit.

    Args:
        flags_type: a dataclass of flags with a field `run` of `RunFlags`.
        prepare: from the flags to the work; raises ValueError for bad input.
        description: shown by `--help`.
    """
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    flags = tyro.cli(flags_type, description=description, config=config)
    run: RunFlags = flags.run  # type: ignore[attr-defined]
    console, errors = consoles()
    put_back, hurried = termination.install(), False
    try:
        if "None" in sys.argv[1:]:  # what the parser would take for a flag that was left out
            raise ValueError("None is not a value; expected one, or leave the flag out (where a flag can be off, it is none)")
        check_given(flags)
        check_given(run)
        status = _run(run, prepare(flags), console)
    except KeyboardInterrupt as error:
        by_signal = termination.told() or isinstance(error, termination.Terminated)
        ended, status = ("terminated", 143) if by_signal else ("interrupted", 130)
        hurried = True
        errors.print(f"{ended}; the same command goes on from the last checkpoints")
    except (Unreachable, NoLongerOwner, BrokenOff) as error:
        if run.verbose:
            traceback.print_exc()
        errors.print(
            f"[bold red]error:[/] {escape(str(error))}; the same command goes on from the last checkpoints", soft_wrap=True
        )
        status = 1
    except (ValueError, StoreBusy, OSError) as error:
        if run.verbose:
            traceback.print_exc()
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        status = 2
    finally:
        put_back()
        if hurried:  # a second Ctrl-C would change the status of a process that is ending
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def check_given(flags: object) -> None:
    """Refuse a flag that was given no value, or an empty one."""
    for name, value in vars(flags).items():
        if value == "":
            raise ValueError(f"--{name.replace('_', '-')} is empty; expected a value, or leave it out")
        if value == () and value is not NOT_GIVEN:
            raise ValueError(f"--{name.replace('_', '-')} has no value; expected one or more, or leave it out")


def _run(flags: RunFlags, work: Work, console: Console) -> int:
    options = RunOptions(
        inline=flags.inline,
        address=flags.address,
        max_concurrent=flags.max_concurrent,
        workers_per_stage=flags.workers_per_stage,
        gpus_per_stage=flags.gpus_per_stage,
        threads_per_stage=flags.threads_per_stage,
        sync_batchnorm=not flags.local_batchnorm,
        retries=flags.retries,
        stopping=flags.stopping,
        compile=flags.compile,
        verbose=flags.verbose,
    )
    if flags.measure_pi:
        require_engine()
    root = locate(flags.storage or Path("runs") / work.name)
    _check_storage(root)
    if work.note:
        console.print(f"[yellow]note[/] {work.note}", soft_wrap=True)
    leaves = [*work.leaves, *(proposed(work.search, root) if work.search else ())]
    if flags.plan:
        plan = Plan(leaves)
        found = survey(plan, Store(root=root))
        if plan.leaves:
            print_plan(plan, found, console, options.stopping)
            if found.missing:
                print_seconds(plan, found, work.sources, options, console)
        else:
            console.print(f"a search by {work.search and work.search.algorithm} plans as it goes: nothing is proposed yet")
        return 0
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    outcome = run_sweep(
        leaves,
        root,
        work.sources,
        options,
        labels={"preset": work.name},
        console=console,
        command=command,
        front=front_so_far,
        search=work.search,
    )
    plan = Plan([*leaves, *(proposed(work.search, root) if work.search else ())])
    if not plan.leaves:
        console.print("[bold red]nothing to report:[/] the search has proposed no configuration that can be built")
        return 1
    report, written = _report(root, manifest_of(list(plan.leaves.values()), work.name, command), console)
    print_report(report, plan, root if written else None, console)
    print_failures(outcome, console)
    measured = True
    if flags.measure_pi:
        measured = measure_models(flags.measure_pi, report, root, console)
        _report(root, manifest_of(list(plan.leaves.values()), work.name, command), console)  # with what was measured
    return 0 if outcome.ok and measured else 1


def _report(root: Location, manifest: Manifest, console: Console) -> tuple[Report, bool]:
    """Write the tables, as the only one who does; where that can't be, make them for the terminal alone. Says which it was."""
    try:
        with Store(root=root).lock() as store:
            write_manifest(store, manifest)
            return write_report([root], root), True
    except (StoreBusy, OSError) as error:
        console.print(f"[yellow]note[/] the tables and pictures were not written: {escape(str(error))}", soft_wrap=True)
        return read_report([root]), False


def _check_storage(root: Location) -> None:
    if not isinstance(root, Path):
        try:
            root.exists()
        except Exception as error:  # whatever the protocol's package raises
            raise ValueError(f"storage {root} can't be reached: {error}; check its name and your credentials") from error
        return
    if root == Path(root.anchor):
        raise ValueError(f"storage {root} is the whole disk; expected a directory of its own, such as {root / 'tmp' / 'run'}")
    existing = next(path for path in (root, *root.parents) if path.exists() or path.is_symlink())
    if not existing.is_dir():
        raise ValueError(f"storage {root} can't be made: {existing} is not a directory; give another --storage")
    for directory in (existing, root / "stages"):
        if directory.exists() and not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"storage {root} can't be written: no permission in {directory}; give another --storage")
