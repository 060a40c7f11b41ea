"""Search beyond grids: configurations that are proposed while a sweep runs, each from what the earlier ones came to.

Owns the axes of a search, the queue that asks for proposals, and what is kept of them. Refuses to know how proposals are made
(`raysp.planning.tune_searchers`) or what stages they mean (`sweeps/`). Contract: what was proposed once is proposed again,
first and in the same order, when the same search is given again; so the same command goes on, and finds what is trained.

    <root>/searches/<id>.json     the proposals so far; the id is a hash of what is searched and how
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.markup import escape

from raysp.latency.recorded import Outline, Record
from raysp.planning.equals import Equals
from raysp.planning.halving import BEYOND
from raysp.planning.plan import JobQueue, inspect
from raysp.planning.weighing import Weighing
from raysp.store.figures import COSTS, Rows
from raysp.store.keys import SHORT_KEY_DIGITS, key_of
from raysp.store.location import Location, exists
from raysp.store.reasons import why
from raysp.store.records import SEARCHES, Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile, read_file

DIGITS = 4
"""Of a value that lies between two."""

STOPPED_SEARCH = "early stopping in a search; expected stopping none: a search's configurations come one after the other"
ASKED_IN_VAIN = 100
"""Times that an algorithm is asked while nothing is open that it could wait for."""


class Listener(Protocol):
    """Who shows a run to its user."""

    def say(self, line: str) -> None:
        """Show a line, in rich's markup."""

    def added(self, found: Sequence[Stage], missing: Sequence[Stage]) -> None:
        """Note stages that a proposal brought: those that are done, and those to train."""


Values = Mapping[str, Any]
"""One value per axis, by the axis' name; JSON."""


@dataclass(frozen=True, kw_only=True)
class Between:
    """An axis on which any value may be proposed from the lowest to the highest."""

    lowest: float
    highest: float
    is_log: bool = False
    """Whether equal ratios count, not equal differences."""
    is_fine: bool | None = None
    """Whether values from 1 on have `DIGITS` digits, too."""

    def __post_init__(self) -> None:
        if not 0 <= self.lowest < self.highest < math.inf or (self.is_log and self.lowest == 0):
            raise ValueError(
                f"values between {self.lowest:g} and {self.highest:g}; expected two numbers, the lower one first and "
                f"{'above' if self.is_log else 'at least'} 0"
            )

    def at(self, share: float) -> float:
        """The value at a share in [0, 1] of the way, rounded."""
        low, high = self.lowest, self.highest
        value = low * (high / low) ** share if self.is_log else low + share * (high - low)
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """A value as it is used: with `DIGITS` digits, unless it is to be whole from 1 on."""
        rounded = float(f"{value:.{DIGITS}g}") if value < 1 or self.is_fine else float(round(value))
        return min(max(rounded, self.lowest), self.highest)


Axis = tuple[Any, ...] | Between
"""The values to choose among, or the two that they lie between."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how."""

    algorithm: str
    """A name that Ray Tune's `create_searcher` knows."""
    axes: Mapping[str, Axis]
    trials: int
    """Proposals in all, those of earlier runs counted."""
    fixed: Values
    """What all proposals share."""
    build: Callable[[Values], list[Stage]]
    """The leaves of a proposal, one per seed. Raises ValueError where there is no such configuration."""
    largest: Mapping[str, float]
    """What the network costs with all its ReLUs, of each of the weighed costs: the scale of the score."""
    weighing: Weighing = field(default_factory=Weighing)
    """What proposals are judged by."""

    @property
    def id(self) -> str:
        """A hash of all but the number of trials."""
        example = {name: axis.lowest if isinstance(axis, Between) else axis[0] for name, axis in self.axes.items()}
        axes = {
            name: {field: value for field, value in vars(axis).items() if value is not None}
            if isinstance(axis, Between)
            else axis
            for name, axis in self.axes.items()
        }
        leaves = tuple(leaf.key for leaf in self.build(example))  # stand for data, network, recipes and seeds
        identity: dict[str, Any] = {"algorithm": self.algorithm, "axes": axes, "fixed": dict(self.fixed), "leaves": leaves}
        if self.weighing.costs != COSTS:
            identity["costs"] = self.weighing.identity
        return key_of(identity)[:SHORT_KEY_DIGITS]


class Algorithm(Protocol):
    """What makes proposals."""

    def ask(self, number: int) -> Values | None:
        """The proposal of this number, from 0; None when there is none now."""

    def tell(self, number: int, objectives: Mapping[str, float] | None) -> None:
        """Say what it came to, in the terms of `objectives_of`; None if it failed."""


def objectives_of(rows: Rows, largest: Mapping[str, float], weighing: Weighing) -> dict[str, float]:
    """What a proposal came to: of each stage the model that its auxiliary classifier was placed for (the cheapest exit), the mean
    over the seeds.

    Args:
        rows: of all its stages, which differ in the seed alone.
        largest: see `Search`.
        weighing: the costs that count.

    Returns:
        `val_accuracy` (percent), the costs, and `score` in [0, 1]: the share of the box between no accuracy and
        1.1 times the largest costs that this model alone dominates, for algorithms that know one objective only.
    """
    cheapest = min(rows, key=lambda row: (row["depth"], row["macs"]))["exit"]
    mine = [row for row in rows if row["exit"] == cheapest]
    points = [{"val_accuracy": float(row["val_accuracy"]), **weighing.values(row)} for row in mine]
    means = {name: sum(point[name] for point in points) / len(points) for name in points[0]}
    score = means["val_accuracy"] / 100.0
    for name in weighing.costs:
        score *= max(0.0, 1.0 - means[name] / (BEYOND * largest[name]))
    return means | {"score": score}


@dataclass(kw_only=True)
class _Open:
    """A proposal that isn't told yet."""

    waiting: set[str]
    """Keys of its leaves that are missing."""
    rows: list[Mapping[str, Any]]


class SearchQueue(JobQueue):
    """A queue that asks for proposals when nothing else is ready, and tells what became of them.

    Args:
        search: what is searched.
        algorithm: makes the proposals, earlier ones first.
        earlier: from `read_proposals`.
        store: as its owner sees it.
        outline: how the networks of finished stages are found that aren't built in, where costs are predicted.
        equals: see `JobQueue`.
        at_once: so many proposals are open at once, at least one.
        progress: told of a proposal's stages.
    """

    def __init__(
        self,
        search: Search,
        algorithm: Algorithm,
        earlier: Sequence[Values],
        store: Store,
        equals: Equals | None = None,
        *,
        outline: Outline,
        at_once: Callable[[], int],
        progress: Listener,
    ) -> None:
        super().__init__([], equals=equals)
        self._search, self._algorithm, self._store = search, algorithm, store
        self._outline = outline
        self._at_once, self._progress = at_once, progress
        self._proposed = list(earlier)
        self._number = 0
        """Of the next proposal."""
        self._known: set[str] = set()
        self._open: dict[int, _Open] = {}
        self._unlike: set[int] = set()
        """Earlier proposals that the algorithm would not repeat: it doesn't hear what became of them."""
        self._asked_in_vain = 0

    def next(self) -> Stage | None:
        """See `JobQueue`; asks for proposals while nothing is ready and few enough are open."""
        while (stage := super().next()) is None and self._occupied() < max(self._at_once(), 1) and not self._is_over():
            if not self._propose() and self._open:
                return None  # what it waits for may be told to it
        return stage

    @property
    def exhausted(self) -> bool:
        """See `JobQueue`."""
        return super().exhausted and not self._open and self._is_over()

    def _occupied(self) -> int:
        """Open proposals that wait for more than what another trains for them."""
        return sum(any(key not in self.following for key in proposal.waiting) for proposal in self._open.values())

    def _is_over(self) -> bool:
        return self._number >= self._search.trials or self._asked_in_vain >= ASKED_IN_VAIN

    def done(self, stage: Stage, record: Mapping[str, Any]) -> None:
        """See `JobQueue`."""
        super().done(stage, record)
        self._note(stage, record)

    def failed(self, stage: Stage, message: str) -> list[Stage]:
        """See `JobQueue`."""
        skipped = super().failed(stage, message)
        for lost in (stage, *skipped):
            self._note(lost, None)
        return skipped

    def _propose(self) -> bool:
        """Take a proposal on; False if none is to be had now."""
        number = self._number
        values = self._algorithm.ask(number)
        known = number < len(self._proposed)
        if values is None and not known:
            self._asked_in_vain = 0 if self._open else self._asked_in_vain + 1
            if self._is_over():
                self._progress.say(f"the search ends: nothing more is proposed after {number} of {self._search.trials}")
            return False
        self._asked_in_vain = 0
        if known and values != self._proposed[number]:
            self._unlike.add(number)
            values = self._proposed[number]
        assert values is not None
        self._number += 1
        try:
            leaves = self._search.build(values)
        except ValueError as error:
            self._progress.say(f"[yellow]left out[/] {escape(str(values))}: {escape(str(error))}")
            leaves = []
        if not known:
            self._proposed.append(values)
            write_proposals(self._store, self._search, self._proposed)
        self._take_on(number, leaves)
        return True

    def _take_on(self, number: int, leaves: Sequence[Stage]) -> None:
        found: list[Stage] = []
        missing: list[Stage] = []
        unknown = {s.key: s for leaf in leaves for s in leaf.lineage() if s.key not in self._known}
        self._known |= unknown.keys()
        for stage in unknown.values():
            is_done, problems = inspect(stage, self._store)
            for damage in problems:
                self._progress.say(set_aside(damage, self._store))
            (found if is_done else missing).append(stage)
        self.add(missing)
        self._progress.added(found, [stage for stage in missing if self.waits_for(stage)])
        proposal = self._open[number] = _Open(waiting={leaf.key for leaf in leaves if self.waits_for(leaf)}, rows=[])
        for leaf in leaves:
            if leaf.key not in proposal.waiting and (record := self._store.read(leaf)):
                proposal.rows += self._weighed(record)
        self._tell_if_complete(number)

    def _note(self, stage: Stage, record: Record | None) -> None:
        """Note what became of a stage, for the proposals that wait for it; None if it failed."""
        waiting = [number for number, proposal in self._open.items() if stage.key in proposal.waiting]
        rows = self._weighed(record) if waiting and record is not None else ()
        for number in waiting:
            self._open[number].waiting.remove(stage.key)
            self._open[number].rows += rows
            self._tell_if_complete(number)

    def _tell_if_complete(self, number: int) -> None:
        if not self._open[number].waiting:
            rows = self._open.pop(number).rows
            if number not in self._unlike:
                found = objectives_of(rows, self._search.largest, self._search.weighing) if rows else None
                self._algorithm.tell(number, found)

    def _weighed(self, record: Record) -> Rows:
        """Its rows with what is weighed; none where that can't be told, as if it had failed."""
        try:
            return self._search.weighing.of_record(record, self._outline)
        except ValueError as error:
            self._progress.say(f"[yellow]not weighed[/] {escape(str(error))}")
            return ()


def set_aside(damage: DamagedFile, store: Store) -> str:
    """Keep a damaged file under another name, if it is there; what to say of it, as rich markup."""
    line = f"[yellow]damaged[/]  {escape(str(damage))}"
    if exists(damage.path):
        line += f"; set aside as {escape(store.set_aside(damage.path).name)}"
    return line


def proposed(search: Search, root: Location) -> list[Stage]:
    """The leaves that a search has proposed in earlier runs. Raises ValueError if they can't be read."""
    leaves: list[Stage] = []
    for values in read_proposals(root, search):
        with suppress(ValueError):  # there is no such configuration, as was said when it was proposed
            leaves += search.build(values)
    return leaves


def write_proposals(store: Store, search: Search, proposed: Sequence[Values]) -> None:
    """Keep a search's proposals. Raises NoLongerOwner."""
    content = {"algorithm": search.algorithm, "proposals": [dict(values) for values in proposed]}
    store.write(store.root / SEARCHES / f"{search.id}.json", json.dumps(content, indent=1, allow_nan=False).encode())


def read_proposals(root: Location, search: Search) -> list[dict[str, Any]]:
    """The proposals of earlier runs of a search, in order. Raises ValueError if they can't be read."""
    path = root / SEARCHES / f"{search.id}.json"
    try:
        content = read_file(path)
        if content is None:
            return []
        found = [
            {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            for values in json.loads(content)["proposals"]
        ]
        for values in found:
            if set(values) != set(search.axes):
                raise ValueError(f"axes {sorted(values)}; expected {sorted(search.axes)}")
            for name, axis in search.axes.items():
                value: Any = values[name]
                if value != axis.rounded(value) if isinstance(axis, Between) else value not in axis:
                    raise ValueError(f"{name} {value!r:.60} is not on its axis")
    except (DamagedFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: no proposals of this search ({why(error)}); move it away, and the search begins anew"
        ) from error
    return found
