"""Early stopping across objectives: of a sweep's configurations, which half is worth training on.

Owns the rungs and the choice at each. Refuses to run or to stop anything (`raysp.planning.plan`, the runners). Contract:
choices depend on the figures alone, not on which stage arrived first; whatever is not dominated is given up only for what adds
more to the front.

After successive halving (arXiv 1502.07943), with ranks for losses: all configurations train up to a rung's epoch, the better half
goes on to the next. Better is a lower non-domination rank over accuracy (up) and the costs that a sweep weighs (down; ReLUs, MACs
and depth unless it says others); of the rank that only partly fits, configurations are given up one by one, each time the one
without which the hypervolume shrinks least. So a model of few ReLUs never has to be as accurate as one of many.
"""

import dataclasses
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from raysp.latency.recorded import Outline, Record
from raysp.models.network import Network
from raysp.planning.weighing import Weighing
from raysp.store.figures import Rows, rows_after
from raysp.store.keys import key_of
from raysp.store.stage import Stage

RUNGS = (0.125, 0.25, 0.5)
"""Shares of a stage's epochs after which half of the configurations is given up."""

BEYOND = 1.1
"""Where the box of the hypervolume ends, in multiples of the largest cost."""


def rung_epochs(epochs: int, rungs: Sequence[float] = RUNGS) -> list[int]:
    """Epochs after which a stage of so many epochs pauses: from 1, rising, each below the last epoch."""
    return sorted({e for share in rungs if 1 <= (e := round(share * epochs)) < epochs})


def _no_network(record: Record) -> Network:
    raise ValueError("its network is not built in, and nothing says where it is kept")


class Halving:
    """The course of all races of a sweep; stages on different data don't compete.

    Args:
        stages: those that may be stopped; seeds of one configuration go on, or are given up, together.
        rungs: shares of a stage's epochs.
        weighing: the costs that count.
        outline: how the networks of finished stages are found that aren't built in, where costs are predicted.
    """

    def __init__(
        self,
        stages: Iterable[Stage],
        rungs: Sequence[float] = RUNGS,
        weighing: Weighing | None = None,
        outline: Outline = _no_network,
    ) -> None:
        self.weighing, self._outline = weighing or Weighing(), outline
        self._races: dict[str, _Race] = {}
        self._race_of: dict[str, _Race] = {}
        seedless: dict[str, str] = {}
        for stage in stages:
            data = getattr(getattr(stage.config, "experiment", None), "data", None)
            race = self._races.setdefault(key_of(data) if data else "", _Race(rungs, self.weighing))
            race.enter(stage, _without_seed(stage, seedless))
            self._race_of[stage.key] = race

    @property
    def epochs(self) -> int:
        """Epochs that are trained in all, when nothing fails."""
        return sum(race.epochs for race in self._races.values())

    def until(self, key: str) -> int | None:
        """The epoch at which a stage is to pause next; None if it runs to its end."""
        race = self._race_of.get(key)
        return race.until(key) if race else None

    def waits(self, key: str) -> bool:
        """Whether a stage has reached its rung, where it must wait for others."""
        race = self._race_of.get(key)
        return race is not None and race.waits(key)

    def stopped_at(self, key: str) -> int | None:
        """The epoch after which a stage was given up, if it was."""
        race = self._race_of.get(key)
        return race.stopped_at(key) if race else None

    def arrived(self, key: str, epoch: int, rows: Rows) -> None:
        """Note what a stage is worth after a rung's epoch; twice is once."""
        if race := self._race_of.get(key):
            race.arrived(key, epoch, rows)

    def finished(self, key: str, record: Record) -> None:
        """Note a stage that is done already: it takes part as it was at each rung, and is never given up.

        Raises:
            ValueError: what it is weighed by can't be predicted of it.
        """
        if (race := self._race_of.get(key)) and (unknown := race.unknown(key)):
            costs = {row["exit"]: row for row in self.weighing.of_record(record, self._outline)}
            for epoch in unknown:
                race.arrived(key, epoch, rows_after(epoch, record["history"], costs))

    def dropped(self, key: str) -> None:
        """Note that a stage failed or was skipped: nobody waits for it."""
        if race := self._race_of.get(key):
            race.dropped(key)

    def follows(self, key: str, first: str) -> None:
        """Note that a stage doesn't train, but takes over what comes of another.

        Where all seeds of a configuration follow those of one other, that one competes for both. Where some do, their
        configuration competes with the other's figures for them, and the other trains on as long as either is left.
        """
        if (race := self._race_of.get(key)) and race is self._race_of.get(first):
            race.follows(key, first)

    def rejoined(self, key: str) -> None:
        """Note that a stage that followed another trains by itself after all."""
        if race := self._race_of.get(key):
            race.rejoined(key)

    def settle(self) -> None:
        """Decide every rung at which nobody is missing."""
        for race in self._races.values():
            race.settle()


@dataclass(kw_only=True)
class _Unit:
    """A configuration, whatever its seeds."""

    stages: list[str] = field(default_factory=list)
    stopped_at: int | None = None
    """The rung, from 0, at which it was given up."""


class _Race:
    def __init__(self, rungs: Sequence[float], weighing: Weighing) -> None:
        self._shares, self._weighing = rungs, weighing
        self._units: dict[str, _Unit] = {}
        self._unit_of: dict[str, _Unit] = {}
        self.rungs_of: dict[str, list[int]] = {}
        self._epochs: dict[str, int] = {}
        self._figures: dict[tuple[str, int], Rows] = {}
        """By stage and epoch."""
        self._first_of: dict[str, str] = {}
        """Whose figures count for a stage that follows another."""
        self._followers: dict[str, list[str]] = {}
        self._rung = 0
        """The one that is to be decided next, from 0."""

    def enter(self, stage: Stage, configuration: str) -> None:
        unit = self._units.setdefault(configuration, _Unit())
        unit.stages.append(stage.key)
        self._unit_of[stage.key] = unit
        self._epochs[stage.key] = stage.epochs
        self.rungs_of[stage.key] = rung_epochs(stage.epochs, self._shares)

    @property
    def epochs(self) -> int:
        units = list(self._units.values())
        total, before = 0, dict.fromkeys(self.rungs_of, 0)
        for rung in range(len(self._shares) + 1):
            for key in (key for unit in units for key in unit.stages):
                reached = [*self.rungs_of[key], self._epochs[key]]
                total += reached[min(rung, len(reached) - 1)] - before[key]
                before[key] = reached[min(rung, len(reached) - 1)]
            units = units[: -(-len(units) // 2)]  # whichever they are
        return total

    def until(self, key: str) -> int | None:
        epochs = self.rungs_of[key]
        return epochs[self._rung] if self._rung < len(epochs) else None

    def waits(self, key: str) -> bool:
        epoch = self.until(key)
        return epoch is not None and self._known(key, epoch) is not None

    def stopped_at(self, key: str) -> int | None:
        needed_by = [self._competing(other) for other in (key, *self._followers.get(key, ()))]
        rungs = [unit.stopped_at for unit in needed_by if unit.stopped_at is not None]
        return self.rungs_of[key][max(rungs)] if len(rungs) == len(needed_by) else None

    def _competing(self, key: str) -> "_Unit":
        """The configuration that competes for a stage: its own, or the one that all of its seeds follow."""
        unit = self._unit_of[key]
        followed = [self._unit_of[self._first_of[other]] for other in unit.stages if other in self._first_of]
        whole = len(followed) == len(unit.stages) and all(other is followed[0] for other in followed)
        return followed[0] if followed and whole else unit

    def _known(self, key: str, epoch: int) -> Rows | None:
        return self._figures.get((self._first_of.get(key, key), epoch))

    def unknown(self, key: str) -> list[int]:
        return [epoch for epoch in self.rungs_of[key] if (key, epoch) not in self._figures]

    def arrived(self, key: str, epoch: int, rows: Rows) -> None:
        self._figures[key, epoch] = rows

    def dropped(self, key: str) -> None:
        unit = self._unit_of[key]
        unit.stages = [other for other in unit.stages if other != key]

    def follows(self, key: str, first: str) -> None:
        self._first_of[key] = first
        self._followers.setdefault(first, []).append(key)

    def rejoined(self, key: str) -> None:
        if first := self._first_of.pop(key, None):
            self._followers[first].remove(key)

    def settle(self) -> None:
        last = max(map(len, self.rungs_of.values()))
        while self._rung < last:
            units = [unit for unit in self._units.values() if unit.stages and self._competing(unit.stages[0]) is unit]
            alive = [unit for unit in units if unit.stopped_at is None]
            here = [unit for unit in alive if all(self.until(key) is not None for key in unit.stages)]
            if not all(self.waits(key) for unit in here for key in unit.stages):
                return
            points = [self._points(unit) for unit in here]
            kept = better_half(points)
            for number, unit in enumerate(here):
                if number not in kept:
                    unit.stopped_at = self._rung
            self._rung += 1

    def _points(self, unit: _Unit) -> npt.NDArray[np.float64]:
        """One point per exit, (exits, 1 + costs), all to be small; the mean over the seeds."""
        known = [self._known(key, self.rungs_of[key][self._rung]) for key in unit.stages]
        seeds = [rows for rows in known if rows is not None]
        weighed = self._weighing.values
        return np.mean([[[-row["val_accuracy"], *weighed(row).values()] for row in rows] for rows in seeds], axis=0)


def better_half(configurations: Sequence[npt.NDArray[np.float64]]) -> set[int]:
    """Which half of some configurations, rounded up, is worth more to the front.

    Args:
        configurations: of each the points of its models, (models, 1 + costs): minus accuracy in percent, then costs.

    Returns:
        Their indices.
    """
    room = -(-len(configurations) // 2)
    if room == len(configurations):
        return set(range(room))
    points = np.concatenate(configurations)
    owner = np.repeat(np.arange(len(configurations)), [len(c) for c in configurations])
    import moocore  # with pandas, which a sweep that stops nothing can do without

    rank = moocore.pareto_rank(points)
    best = np.full(len(configurations), len(points))
    np.minimum.at(best, owner, rank)
    kept: set[int] = set()
    for level in np.unique(best):
        tied = set(np.flatnonzero(best == level).tolist())
        if len(kept) + len(tied) > room:
            return kept | _most_volume(points, owner, kept, tied, room - len(kept))
        kept |= tied
    return kept


def _most_volume(
    points: npt.NDArray[np.float64], owner: npt.NDArray[np.int64], kept: set[int], tied: set[int], room: int
) -> set[int]:
    """Of configurations of one rank those that are left when the one that adds least is given up until they fit.

    Of equal ones the later goes first.
    """
    import moocore

    ideal = np.zeros(points.shape[1])
    ideal[0] = -100.0
    worst = points.max(axis=0) * BEYOND
    worst[0] = 0.0  # no accuracy at all
    scale = np.where(worst == ideal, 1.0, worst - ideal)
    scaled, reference = points / scale, worst / scale

    def volume(configurations: set[int]) -> float:
        chosen = np.isin(owner, list(configurations))
        return float(moocore.hypervolume(scaled[chosen], ref=reference)) if chosen.any() else 0.0

    left = set(tied)
    # What one adds can only grow when another goes, so an old value is a bound, and few have to be computed anew.
    least = [(0.0, -number, -1) for number in tied]
    heapq.heapify(least)
    whole, changes = volume(kept | left), 0
    while len(left) > room:
        _, minus, computed = heapq.heappop(least)
        number = -minus
        if computed == changes:
            left.remove(number)
            whole, changes = volume(kept | left), changes + 1
        else:
            heapq.heappush(least, (whole - volume((kept | left) - {number}), minus, changes))
    return left


def _without_seed(stage: Stage, known: dict[str, str]) -> str:
    """A key that stages share which differ in nothing but the seed."""
    if stage.key not in known:
        config = stage.config
        experiment = getattr(config, "experiment", None)
        if experiment is not None:
            config = dataclasses.replace(config, experiment=dataclasses.replace(experiment, seed=0))  # type: ignore[call-arg]
        parents = {role: _without_seed(parent, known) for role, parent in stage.parents.items()}
        known[stage.key] = key_of({"name": stage.name, "version": stage.version, "config": config, "parents": parents})
    return known[stage.key]
