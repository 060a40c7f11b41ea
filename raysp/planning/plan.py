"""What a sweep will do: its stages in order, what is already there, and what sharing saves.

Owns the deduplication by key, the order of jobs and the bookkeeping of finished, stopped, failed and skipped ones. Refuses to run
anything. Contract: a job is handed out only when all its parents are done, once, or once for each rung up to which it trains;
longest chains come first. What comes to the same as another job is handed out when that one is done, to be copied.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from raysp.planning.equals import Equals
from raysp.planning.halving import Halving
from raysp.store.figures import Rows
from raysp.store.location import is_remote
from raysp.store.records import READERS, RECORD, Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile


@dataclass(frozen=True, kw_only=True)
class StageCount:
    """One line of a plan: the jobs of one kind of stage."""

    name: str
    jobs: int
    found: int
    separate_jobs: int
    """Jobs of this kind if every configuration trained its own pipeline."""


class Plan:
    """The distinct stages below a sweep's leaves, ancestors first.

    Args:
        leaves: the stages that the sweep is about, one per configuration; equal ones count once.
    """

    def __init__(self, leaves: Iterable[Stage]) -> None:
        self.leaves: dict[str, Stage] = {stage.key: stage for stage in leaves}
        self.stages: dict[str, Stage] = {s.key: s for leaf in self.leaves.values() for s in leaf.lineage()}

    @property
    def epochs(self) -> int:
        """Epochs of all distinct stages together."""
        return sum(stage.epochs for stage in self.stages.values())

    @property
    def separate_epochs(self) -> int:
        """Epochs if every configuration trained its whole pipeline alone."""
        return sum(leaf.stands_for * stage.epochs for leaf in self.leaves.values() for stage in leaf.lineage())

    def counts(self, found: Iterable[str] = ()) -> list[StageCount]:
        """Jobs per kind of stage in the order of the pipeline; `found` holds the keys that need no training."""
        jobs = Counter(stage.name for stage in self.stages.values())
        done = Counter(self.stages[key].name for key in found)
        separate: Counter[str] = Counter()
        for leaf in self.leaves.values():
            for stage in leaf.lineage():
                separate[stage.name] += leaf.stands_for
        return [StageCount(name=n, jobs=k, found=done[n], separate_jobs=separate[n]) for n, k in jobs.items()]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a results root holds of a plan."""

    found: list[Stage]
    missing: list[Stage]
    damaged: list[Stage]
    """Those of the missing that have a record, weights or a checkpoint that can't be trusted."""


def survey(plan: Plan, store: Store) -> Survey:
    """Look every stage of a plan up in a store. Reads and hashes files, writes nothing."""
    found: list[Stage] = []
    missing: list[Stage] = []
    damaged: list[Stage] = []
    stages = list(plan.stages.values())
    with ThreadPoolExecutor(READERS) as pool:
        looked_up = list(pool.map(lambda stage: inspect(stage, store), stages))
    for stage, (is_done, problems) in zip(stages, looked_up, strict=True):
        (found if is_done else missing).append(stage)
        if problems:
            damaged.append(stage)
    return Survey(found=found, missing=missing, damaged=damaged)


def inspect(stage: Stage, store: Store) -> tuple[bool, list[DamagedFile]]:
    """Whether a stage is done, and all of its files that can't be trusted, to be set aside in this order."""
    problems = []
    try:
        if store.read(stage) is not None:
            return True, []
    except DamagedFile as error:
        problems.append(error)
        record = store.directory(stage) / RECORD
        if error.path == record.parent:
            return False, problems
        if error.path != record:
            problems.append(DamagedFile(record, f"goes with {error.path.name}"))
    reads: list[Callable[[Stage], object]] = [store.read_rungs] if stage.stoppable else []
    if not is_remote(store.root):  # there it would be a download; the stage itself finds out
        reads.append(store.load_checkpoint)
    for read in reads:
        try:
            read(stage)
        except DamagedFile as error:
            problems.append(error)
    return False, problems


@dataclass(kw_only=True)
class Outcome:
    """How a run ended, by stage key."""

    done: list[str] = field(default_factory=list)
    """Stages trained in this run, or copied from one that trains the same."""
    failed: dict[str, str] = field(default_factory=dict)
    """Stages that raised, with the message."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Stages whose ancestor failed, with the reason."""
    stopped: list[str] = field(default_factory=list)
    """Stages that were given up early for better ones; their checkpoints stay."""
    left: list[str] = field(default_factory=list)
    """Keys of stages that are neither done nor given up, though the run has ended; there should be none."""

    @property
    def ok(self) -> bool:
        """Whether everything planned is done, or was given up for better ones."""
        return not self.failed and not self.skipped and not self.left


class JobQueue:
    """Hands out a plan's missing stages, each when its parents are done.

    Args:
        missing: stages to run.
        halving: which of them pause where, and which go on; None trains all to their end.
        equals: which of them train the same; None trains each by itself.

    Stages not among `missing` count as done.
    """

    def __init__(self, missing: Sequence[Stage], halving: Halving | None = None, equals: Equals | None = None) -> None:
        self.outcome = Outcome()
        self._halving = halving or Halving(())
        self._equals = equals or Equals()
        self._copies: list[Stage] = []
        """Followers whose first is done."""
        self._held: dict[str, Stage] = {}
        """Stages that wait at a rung."""
        self._waiting: dict[str, Stage] = {}
        self._children: dict[str, list[Stage]] = {}
        self._blockers: dict[str, int] = {}
        self._priority: dict[str, int] = {}
        self._ready: list[tuple[int, str, Stage]] = []
        self._blocked = 0
        self.add(missing)

    def add(self, missing: Sequence[Stage]) -> None:
        """Take more stages on, ancestors first; those whose parent failed before are skipped."""
        for stage in missing:
            lost = [p for p in stage.parents.values() if p.key in self.outcome.failed or p.key in self.outcome.skipped]
            if lost:
                self.outcome.skipped[stage.key] = f"{lost[0].label} failed"
                continue
            self._waiting[stage.key] = stage
            parents = {p.key for p in stage.parents.values()} & self._waiting.keys()
            self._blockers[stage.key] = len(parents)
            for key in parents:
                self._children.setdefault(key, []).append(stage)
        self._priority |= self._longest_chains(missing)
        for stage in missing:
            if self._blockers.get(stage.key):
                self._blocked += 1
            elif stage.key in self._waiting:
                self._make_ready(stage)

    def waits_for(self, stage: Stage) -> bool:
        """Whether a stage has still to be done."""
        return stage.key in self._waiting

    def next(self) -> Stage | None:
        """Hand out a stage to copy (see `same_as`) or, where there is none, the ready one with the longest chain of epochs below
        it; None when none is ready.
        """
        if self._copies:
            return self._copies.pop(0)
        return heappop(self._ready)[-1] if self._ready else None

    def until(self, stage: Stage) -> int | None:
        """The epoch at which a stage that is handed out is to pause; None if it runs to its end."""
        return self._halving.until(stage.key)

    def same_as(self, stage: Stage) -> str | None:
        """The key of the stage whose results another takes over; None if it trains."""
        return self._equals.first_of(stage)

    @property
    def following(self) -> Container[str]:
        """Keys of the stages that don't train, as far as is known, at any time."""
        return self._equals.following

    def trains_itself(self, stage: Stage) -> None:
        """Note that there is nothing to copy a stage from: it, or another that trains the same, is to train."""
        self._equals.leave(stage)
        self._halving.rejoined(stage.key)
        self._make_ready(stage)

    @property
    def exhausted(self) -> bool:
        """Whether every stage has been handed out to its end, stopped or skipped; some may still run."""
        if self._ready or self._copies or self._blocked or self._held or self._equals.any_waits:
            return False
        # The waiting ones run, and those that run to a rung may have to be handed out again.
        return all(self.until(stage) is None for stage in self._waiting.values())

    @property
    def left(self) -> list[str]:
        """Keys of stages that are neither done nor given up."""
        return list(self._waiting)

    def done(self, stage: Stage, record: Mapping[str, Any]) -> None:
        """Note that a stage has its record, which may make its children ready."""
        self._halving.finished(stage.key, record)
        self._waiting.pop(stage.key)
        self.outcome.done.append(stage.key)
        self._copies += self._equals.done(stage)
        for child in self._children.get(stage.key, ()):
            self._blockers[child.key] -= 1
            if not self._blockers[child.key] and child.key in self._waiting:
                self._blocked -= 1
                self._make_ready(child)

    def paused(self, stage: Stage, epoch: int, rows: Rows) -> None:
        """Note that a stage has reached its rung.

        Args:
            stage: which.
            epoch: the rung's.
            rows: what its exits are worth then.
        """
        self._halving.arrived(stage.key, epoch, rows)
        self._held[stage.key] = stage

    def settle(self) -> list[Stage]:
        """Decide at the rungs: those that pass are ready again, those that don't are returned.

        To be asked at the start, and after everything that was noted.
        """
        self._halving.settle()
        stopped = []
        for stage in list(self._held.values()):
            if self._halving.stopped_at(stage.key) is not None:
                stopped += [stage, *self._equals.lost(stage)]
            elif self._halving.waits(stage.key):
                continue
            else:
                heappush(self._ready, self._ranked(stage))
            del self._held[stage.key]
        for follower in self._equals.waiting:  # its own seeds may be given up while what it follows is needed for others
            if self._halving.stopped_at(follower.key) is not None:
                self._equals.no_longer(follower)
                stopped.append(follower)
        for stage in stopped:
            self._waiting.pop(stage.key)
            self.outcome.stopped.append(stage.key)
        return stopped

    def failed(self, stage: Stage, message: str) -> list[Stage]:
        """Note that a stage failed; return its descendants, which are skipped now."""
        self._waiting.pop(stage.key)
        self._halving.dropped(stage.key)
        self.outcome.failed[stage.key] = message
        skipped, frontier = [], [stage]
        while frontier:
            for child in self._children.get(frontier.pop().key, ()):
                if self._waiting.pop(child.key, None):
                    self._blocked -= 1
                    self._halving.dropped(child.key)
                    self.outcome.skipped[child.key] = f"{stage.label} failed"
                    skipped.append(child)
                    frontier.append(child)
        for follower in self._equals.lost(stage):
            self.trains_itself(follower)
        return skipped

    def _make_ready(self, stage: Stage) -> None:
        if first := self._equals.meet(stage):
            self._halving.follows(stage.key, first)
            if self._equals.is_done(first):
                self._copies.append(stage)
        elif self._halving.waits(stage.key) or self._halving.stopped_at(stage.key) is not None:
            self._held[stage.key] = stage
        else:
            heappush(self._ready, self._ranked(stage))

    def _ranked(self, stage: Stage) -> tuple[int, str, Stage]:
        return -self._priority[stage.key], stage.key, stage

    def _longest_chains(self, missing: Sequence[Stage]) -> dict[str, int]:
        longest: dict[str, int] = {}
        for stage in reversed(missing):  # children come after their parents
            below = max((longest[c.key] for c in self._children.get(stage.key, ())), default=0)
            longest[stage.key] = below + stage.epochs
        return longest
