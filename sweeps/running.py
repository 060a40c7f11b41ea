"""What a sweep's command does once its flags are known to be good: the plan, or the run and what is printed at its end."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from raysp.data.sources import Source
from raysp.engine.forecast import print_plan, print_seconds
from raysp.engine.memory import check_memory
from raysp.engine.options import RunOptions
from raysp.engine.sweep import BrokenOff, run_sweep
from raysp.pi import require_engine
from raysp.planning.plan import Plan, survey
from raysp.planning.proposals import Search, proposed
from raysp.planning.weighing import Weighing
from raysp.store.location import Location, Unreachable, entries, locate
from raysp.store.lock import StoreBusy
from raysp.store.manifest import Manifest, manifest_of, write_manifest
from raysp.store.records import NoLongerOwner, Store
from raysp.store.remedies import remedy_of
from raysp.store.stage import Stage
from sweeps.flags import RunFlags
from sweeps.limits import misses, print_limits

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.report import Report

BROKEN_OFF = (Unreachable, NoLongerOwner, BrokenOff)
"""Errors after which the same command goes on."""
REFUSED = (ValueError, StoreBusy, OSError)
"""Errors before anything was trained, where they are none of the above."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a sweep wants done."""

    leaves: Sequence[Stage]
    """A stage per configuration."""
    sources: Sequence[Source]
    """The data sets that they read."""
    name: str
    """The preset's, which names the default results directory and stands in the rows."""
    notes: Sequence[str] = ()
    """What the user should know before it starts."""
    search: Search | None = None
    """Proposes leaves, while the sweep runs, beyond these."""
    weighing: Weighing = field(default_factory=Weighing)
    """What models are judged by."""
    given: Mapping[Stage, Mapping[str, "Tensor"]] = field(default_factory=dict)
    """The user's own weights, by the baselines that take them and are not trained."""


def train(flags: RunFlags, options: RunOptions, work: Work, console: Console, command: str) -> int:
    """Print the plan, if that is what was asked for, or train and report; returns the exit status.

    Args:
        flags: as given.
        options: where and how to run, from the flags.
        work: what is to be done.
        console: where to print.
        command: what was asked for, as the user said it.

    Raises:
        ValueError and others: see `BROKEN_OFF` and `REFUSED`.
    """
    if flags.measure_pi:
        require_engine()
    root = locate(flags.storage or Path("runs") / work.name)
    _check_storage(root)
    for note in work.notes:
        console.print(f"[yellow]note[/] {note}", soft_wrap=True)
    for source in work.sources:
        for note in (*source.notes, *([source.passed_over] if flags.plan and source.passed_over else ())):
            console.print(f"[yellow]note[/] {source.config.name}: {escape(note)}", highlight=False, soft_wrap=True)
    leaves = [*work.leaves, *(proposed(work.search, root) if work.search else ())]
    if flags.plan:
        plan = Plan(leaves)
        found = survey(plan, Store(root=root))
        if plan.leaves:
            print_plan(plan, found, console, options.stopping)
            print_limits(plan.leaves.values(), Store(root=root), console)
            if found.missing:
                check_memory(work.sources)
                print_seconds(plan, found, work.sources, options, console)
        else:
            console.print(f"a search by {work.search and work.search.algorithm} plans as it goes: nothing is proposed yet")
        return 0
    for line in misses(leaves):
        console.print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)
    if work.given:
        _hand_over(work.given, root)
    from sweeps.summary import front_so_far, print_failures, print_report  # pandas takes a second to import

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
        weighing=work.weighing,
    )
    plan = Plan([*leaves, *(proposed(work.search, root) if work.search else ())])
    if not plan.leaves:
        console.print("[bold red]nothing to report:[/] the search has proposed no configuration that can be built")
        return 1
    manifest = manifest_of(list(plan.leaves.values()), work.name, command)
    report, written = _report(root, manifest, work.weighing, console)
    print_report(report, plan, root if written else None, console)
    print_failures(outcome, console)
    measured = True
    if flags.measure_pi:
        from sweeps.measure import measure_models

        measured = measure_models(flags.measure_pi, report, root, console)
        _report(root, manifest, work.weighing, console)  # with what was measured
    return 0 if outcome.ok and measured else 1


def _hand_over(given: "Mapping[Stage, Mapping[str, Tensor]]", root: Location) -> None:
    """Put a user's weights where the baselines that take them will look: wherever a stage runs, it sees its own checkpoint."""
    if waiting := survey(Plan(given), Store(root=root)).missing:
        with Store(root=root).lock() as store:
            weights = {stage.key: tensors for stage, tensors in given.items()}
            for stage in waiting:
                store.save_checkpoint(stage, weights[stage.key], {"given": stage.config.given})  # type: ignore[attr-defined]


def _report(root: Location, manifest: Manifest, weighing: Weighing, console: Console) -> "tuple[Report, bool]":
    """Write the tables, as the only one who does; where that can't be, make them for the terminal alone. Says which it was."""
    from analysis.report import Question, read_report, write_report  # matplotlib takes a second to import

    question = Question(costs=weighing.costs, calibrations=weighing.calibrations, link=weighing.link)
    try:
        with Store(root=root).lock() as store:
            write_manifest(store, manifest)
            return write_report([root], root, question), True
    except (StoreBusy, OSError) as error:
        console.print(f"[yellow]note[/] the tables and pictures were not written: {escape(str(error))}", soft_wrap=True)
        return read_report([root], question), False


def _check_storage(root: Location) -> None:
    if not isinstance(root, Path):
        try:
            entries(root)
        except Exception as error:  # whatever the protocol's package raises
            remedy = remedy_of(error) or "; check its name and your credentials"
            raise ValueError(f"storage {root} can't be reached: {getattr(error, 'strerror', None) or error}{remedy}") from error
        return
    if root == Path(root.anchor):
        raise ValueError(f"storage {root} is the whole disk; expected a directory of its own, such as {root / 'tmp' / 'run'}")
    existing = next(path for path in (root, *root.parents) if path.exists() or path.is_symlink())
    if not existing.is_dir():
        raise ValueError(f"storage {root} can't be made: {existing} is not a directory; give another --storage")
    for directory in (existing, root / "stages"):
        if directory.exists() and not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"storage {root} can't be written: no permission in {directory}; give another --storage")
