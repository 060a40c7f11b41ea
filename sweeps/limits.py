"""What `--max-seconds` will come to, said before anything trains.

Owns the words and the table. What is foreseen is `raysp.stages.foreseen`'s; once a network's mask and its blocks' losses are
known, what is gated for the limit is `raysp.stages.time_limit`'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysp.engine.context import Parent, read_parent
from raysp.stages.finetune import FinetuneConfig
from raysp.stages.foreseen import Foreseen, foreseen
from raysp.stages.mask import MaskConfig
from raysp.stages.ranking import RankingConfig
from raysp.stages.time_limit import TimeLimit, gated_in_time
from raysp.store.records import Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile

MOST_LINES = 40
"""Of the table, and of misses."""
OUTLOOK = {True: "met, whatever the mask", False: "missed, whatever the mask", None: "depends on the mask"}


@dataclass(frozen=True, kw_only=True)
class Limited:
    """A configuration that has a limit."""

    config: FinetuneConfig
    limit: TimeLimit
    found_by: MaskConfig | RankingConfig
    """What its mask is found by."""

    @property
    def relus(self) -> int:
        """Its budget."""
        return self.found_by.budget if isinstance(self.found_by, MaskConfig) else self.config.budget or 0

    @property
    def said(self) -> tuple[str, str, str]:
        """Its limit, its mask and its budget, for people."""
        kernel = "" if self.config.kernel_size == 3 else f", kernel {self.config.kernel_size}"
        by_channel = " by channel" if self.found_by.granularity == "channel" else ""
        return f"{self.limit}{kernel}", f"{self.found_by.method}{by_channel}", str(self.relus)


def limited(leaves: Iterable[Stage]) -> dict[Stage, Limited]:
    """The configurations that have a limit."""
    found = {}
    for leaf in leaves:
        config, finder = leaf.config, leaf.parents.get("ranking", leaf.parents.get("mask"))
        if isinstance(config, FinetuneConfig) and config.time_limit is not None and finder is not None:
            assert isinstance(finder.config, MaskConfig | RankingConfig)
            found[leaf] = Limited(config=config, limit=config.time_limit, found_by=finder.config)
    return found


def foresee(configurations: Iterable[Limited]) -> dict[tuple[str, str, str], Foreseen]:
    """What is foreseen of them, by what is said of them."""
    first: dict[tuple[str, str, str], Limited] = {}
    for one in configurations:
        first.setdefault(one.said, one)
    return {said: foreseen(one.config, one.limit, one.found_by) for said, one in first.items()}


def misses(leaves: Iterable[Stage]) -> list[str]:
    """What must be said of limits that will be missed, whatever is trained."""
    said = [
        f"{limit} is not to be met with {relus} ReLUs: {_range(found)} are predicted, with all blocks gated that help"
        for (limit, _, relus), found in foresee(limited(leaves).values()).items()
        if found.is_met is False
    ]
    more = [f"{len(said) - MOST_LINES} more limits are not to be met"] if len(said) > MOST_LINES else []
    return said[:MOST_LINES] + more


def print_limits(leaves: Iterable[Stage], store: Store, console: Console) -> None:
    """Show what becomes of limits, as a table; those of which the same is said are one line.

    Args:
        leaves: what is planned.
        store: where masks and what blocks lose are read, as far as they are known.
        console: where to print.
    """
    configurations = limited(leaves)
    ahead = foresee(configurations.values())
    parents: dict[str, Parent | None] = {}
    lines: dict[tuple[str, ...], None] = {}
    for leaf, one in configurations.items():
        for parent in leaf.parents.values():
            if parent.key not in parents:
                parents[parent.key] = _done(parent, store)
        known = {role: found for role, parent in leaf.parents.items() if (found := parents[parent.key])}
        if len(known) == len(leaf.parents):
            chosen = gated_in_time(one.limit, one.config.experiment, known, one.config.budget)
            what = f"{chosen.seconds:.4g} s, {len(chosen.blocks)} gated", "met" if chosen.meets else "missed"
        else:
            what = f"{_range(ahead[one.said])}", OUTLOOK[ahead[one.said].is_met]
        lines[*one.said, *what] = None
    if not lines:
        return
    table = Table("final exit", "mask", "ReLUs", "predicted", "limit", box=None, pad_edge=False)
    for line in list(lines)[:MOST_LINES]:
        table.add_row(*map(escape, line))
    console.print(table)
    if len(lines) > MOST_LINES:
        console.print(f"... and {len(lines) - MOST_LINES} more")


def _done(stage: Stage, store: Store) -> Parent | None:
    try:
        return read_parent(stage, store)
    except (RuntimeError, DamagedFile):
        return None


def _range(found: Foreseen) -> str:
    return f"{found.least_s:.3g} to {found.most_s:.3g} s"
