"""What a person sees while a sweep trains: jobs by stage, the running ones, the front so far, the time and the hours left.

Owns the estimate and its drawing: one live table on a terminal, plain lines elsewhere. Refuses to decide anything, and to know
what a front is; a runner tells it what happens. Contract: no call blocks for long, or raises what the console doesn't.
"""

import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raysp.engine.names import ShortNames
from raysp.engine.tracking.feed import NO_FEED, Feed
from raysp.store.keys import SHORT_KEY_DIGITS
from raysp.store.stage import Stage

T = TypeVar("T")
FrontSoFar = Callable[[Sequence[dict[str, Any]]], RenderableType]
"""Draws the front of finished models' rows."""

MOST_RUNNING = 30
"""Running jobs that the live table shows."""
PLAIN_LINE_EVERY_S = 10.0
"""Seconds between two plain lines about one running job."""


@dataclass(kw_only=True)
class _Job:
    stage: Stage
    started: float = field(default_factory=time.monotonic)
    figures: dict[str, Any] = field(default_factory=dict)
    printed: float = 0.0

    @property
    def epochs_done(self) -> int:
        return int(self.figures.get("epoch", 0))


class _Seldom(Generic[T]):
    """Computes something costly anew so seldom that this takes a twentieth of the time, but every second if need be."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute, self._next = compute, 0.0

    def __call__(self) -> T:
        begun = time.monotonic()
        if begun >= self._next:
            self._value = self._compute()
            now = time.monotonic()
            self._next = now + min(20 * (now - begun), 1.0)
        return self._value


class Progress:
    """Follows the jobs of one run.

    Args:
        missing: all stages that the run will train.
        slots: how many of them run at once, now.
        console: where to draw.
        found: stages of the sweep that were done before.
        rows: of their models.
        front: draws the front of all models' rows.
        gpus: of each worker; 0 on CPUs.
        workers: of each stage.
        bound: what the time left is: "at most" where stages may be given up, "at least" where more may come.
        feed: tells trackers the same.
    """

    def __init__(
        self,
        missing: Sequence[Stage],
        slots: Callable[[], int],
        console: Console,
        *,
        found: Sequence[Stage] = (),
        rows: Sequence[dict[str, Any]] = (),
        front: FrontSoFar | None = None,
        gpus: float = 0.0,
        workers: int = 1,
        bound: str = "about",
        feed: Feed = NO_FEED,
    ) -> None:
        self._console = console
        self._slots = slots
        self._jobs = Counter(stage.name for stage in (*found, *missing))
        self._names = ShortNames((*found, *missing))
        self._done = Counter(stage.name for stage in found)
        self._found = len(found)
        self._failed: Counter[str] = Counter()
        self._stopped: Counter[str] = Counter()
        self._trained: dict[str, int] = {}
        """Epochs of those that have paused."""
        self._rows = list(rows)
        self._front = _Seldom(lambda: front(self._rows) if front and self._rows else None)
        self._estimate = _Seldom(self.seconds_left)
        self._devices = (gpus or 1.0) * workers
        self._unit = "GPU-hours" if gpus else "worker-hours"
        self._spent_s = 0.0
        self._bound = bound
        self._feed = feed
        self.following: Container[str] = ()
        """Keys of stages that will be copies of others: no time is needed for them."""
        self._left = {stage.key: stage for stage in missing}
        self._total = len(missing)
        self._running: dict[str, _Job] = {}
        self._epoch_seconds: dict[str, tuple[float, int]] = {}
        """Seconds and number of the epochs so far, by kind of stage."""
        self._live: Live | None = None
        self._begun = time.monotonic()

    @contextmanager
    def show(self) -> Iterator["Progress"]:
        """Draw until the block ends."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(get_renderable=self._draw, console=self._console, refresh_per_second=2, transient=True) as self._live:
            yield self
        self._live = None

    def added(self, found: Sequence[Stage], missing: Sequence[Stage]) -> None:
        """More stages belong to the run, found or to be trained."""
        self._jobs.update(stage.name for stage in (*found, *missing))
        self._names.add((*found, *missing))
        self._done.update(stage.name for stage in found)
        self._found += len(found)
        self._left |= {stage.key: stage for stage in missing}
        self._total += len(missing)

    def started(self, stage: Stage) -> None:
        """A job was given out."""
        self._running[stage.key] = _Job(stage=stage, figures={"epoch": self._trained.get(stage.key, 0)})
        self._feed.opened(stage, self._names.of(stage))

    def epoch(self, stage: Stage, figures: dict[str, Any]) -> None:
        """A job has ended an epoch; `figures` is what it reported."""
        job = self._running.setdefault(stage.key, _Job(stage=stage))
        job.figures = figures
        self._feed.epoch(stage, figures)
        if "time_s" in figures:
            seconds, number = self._epoch_seconds.get(stage.name, (0.0, 0))
            self._epoch_seconds[stage.name] = seconds + float(figures["time_s"]), number + 1
            self._spent_s += float(figures["time_s"])
        now = time.monotonic()
        if self._live is None and now - job.printed > PLAIN_LINE_EVERY_S:
            job.printed = now
            self._say(f"{self._name(stage)}  epoch {figures.get('epoch')}/{stage.epochs}{_accuracy(figures)}")

    def finished(self, stage: Stage, rows: Sequence[dict[str, Any]] = ()) -> None:
        """A job has its record; `rows` are its models'."""
        job = self._running.pop(stage.key, None)
        self._count(stage, rows)
        self._feed.closed(stage, "done", rows)
        took = f" in {clock_of(time.monotonic() - job.started)}" if job else ""
        best = job.figures.get("best_val_accuracy") if job else None
        accuracy = f"  best val {best:.2f} %" if best is not None else ""
        self._say(f"[green]done[/]     {self._name(stage)}{took}{accuracy}", stage)

    def copied(self, stage: Stage, first: str, rows: Sequence[dict[str, Any]]) -> None:
        """A job took its results over from the one of the key `first`."""
        self._count(stage, rows)
        self._feed.opened(stage, self._names.of(stage))
        self._feed.closed(stage, "done", rows, same_as=f"{stage.name}-{first[:SHORT_KEY_DIGITS]}")
        self._say(f"[green]done[/]     {self._name(stage)}, the same as {stage.name}-{first[:SHORT_KEY_DIGITS]}", stage)

    def paused(self, stage: Stage, epoch: int) -> None:
        """A job waits at its rung, to see whether it is worth training on."""
        job = self._running.pop(stage.key, None)
        self._trained[stage.key] = epoch
        self._say(f"paused   {self._name(stage)} after epoch {epoch}{_accuracy(job.figures) if job else ''}", stage)

    def stopped(self, stages: Sequence[Stage]) -> None:
        """Jobs are given up for better ones."""
        for stage in stages:
            self._left.pop(stage.key, None)
            self._stopped[stage.name] += 1
            self._feed.closed(stage, "stopped")
            self._say(f"[yellow]stopped[/]  {self._name(stage)} for better ones", stage)

    def failed(self, stage: Stage, message: str, skipped: Sequence[Stage]) -> None:
        """A job failed, and with it its descendants."""
        self._running.pop(stage.key, None)
        self._failed[stage.name] += 1
        self._feed.closed(stage, "failed", error=message)
        self._left.pop(stage.key, None)
        self._say(f"[bold red]failed[/]   {escape(message)}")
        for child in skipped:
            self._left.pop(child.key, None)
            self._say(f"[yellow]skipped[/]  {self._name(child)}: {self._name(stage)} failed", child)

    def say(self, line: str) -> None:
        """Print a line of rich markup among the others."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Estimate of the time to the end of the run in seconds; None before the first epoch anywhere.

        Mean seconds per epoch of each kind of stage (of all kinds, where one hasn't run yet) times the epochs that are left,
        spread over the slots, but not less than the longest chain of stages needs one after the other.
        """
        need = self._need()
        if need is None:
            return None
        chain: dict[str, float] = {}
        for key, stage in list(self._left.items()):  # ancestors first
            if key not in need:
                continue
            chain[key] = need[key] + max((chain.get(p.key, 0.0) for p in stage.parents.values()), default=0.0)
        return max(sum(need.values()) / max(self._slots(), 1), max(chain.values(), default=0.0))

    def device_hours(self) -> tuple[float, float | None, str]:
        """What this run has spent and has still to spend, and what of: GPUs' hours (or shares of them), on CPUs workers'."""
        need = self._need()
        left = None if need is None else sum(need.values()) * self._devices / 3600
        return self._spent_s * self._devices / 3600, left, self._unit

    def _need(self) -> dict[str, float] | None:
        """Seconds that every stage still needs, by key; None before the first epoch anywhere."""
        # Copies: the display asks from a thread of its own.
        epoch_seconds = dict(self._epoch_seconds)
        if not epoch_seconds:
            return None
        overall = sum(seconds for seconds, _ in epoch_seconds.values()) / sum(number for _, number in epoch_seconds.values())
        means = {name: seconds / number for name, (seconds, number) in epoch_seconds.items()}
        need = {}
        for key, stage in list(self._left.items()):
            per_epoch = means.get(stage.name, overall)
            job = self._running.get(key)
            done = job.epochs_done if job else self._trained.get(key, 0)
            need[key] = 0.0 if key in self.following else per_epoch * max(stage.epochs - done, 0)
        return need

    def _count(self, stage: Stage, rows: Sequence[dict[str, Any]]) -> None:
        self._left.pop(stage.key, None)
        self._done[stage.name] += 1
        self._rows += rows

    def _name(self, stage: Stage) -> str:
        return escape(self._names.of(stage))

    def _say(self, line: str, stage: Stage | None = None) -> None:
        """Print a line of rich markup with how far the run is, and the directory of the stage that it is about."""
        left = self._estimate()
        tail = f", {self._bound} {clock_of(left)} left" if left and self._left else ""
        count = f"[dim]({self._num_done}/{self._total}{tail})[/]"
        where = f"  [dim]{stage.label}[/]" if stage and stage.note else ""
        self._console.print(f"{line}  {count}{where}", highlight=False, soft_wrap=True)

    def _draw(self) -> Group:
        stages = Table("stage", "done", "of", "running", "stopped", "failed", box=None, pad_edge=False)
        running = list(self._running.values())  # the display has a thread of its own
        counts = Counter(job.stage.name for job in running)
        for name, total in list(self._jobs.items()):
            failed = self._failed[name]
            stages.add_row(
                name,
                *(str(self._done[name]), str(total), str(counts[name] or ""), str(self._stopped[name] or "")),
                f"[red]{failed}[/]" if failed else "",
            )
        need = self._need() or {}
        jobs = Table("running", box=None, pad_edge=False)  # names fold where there is no room, figures never do
        for heading in ("epoch", "accuracy", "loss", "elapsed", "left"):
            jobs.add_column(heading, no_wrap=True)
        for job in running[:MOST_RUNNING]:
            figures = job.figures
            epoch = f"{figures.get('epoch', 0)}/{job.stage.epochs}"
            loss = f"{figures['loss']:.3f}" if "loss" in figures else ""
            left = clock_of(need[job.stage.key]) if job.stage.key in need else ""
            elapsed = clock_of(time.monotonic() - job.started)
            jobs.add_row(self._name(job.stage), epoch, _accuracy(figures).strip(), loss, elapsed, left)
        return Group(stages, "", jobs, *(["", drawn] if (drawn := self._front()) else []), "", Text(self._summary()))

    def _summary(self) -> str:
        left = self.seconds_left()
        spent, to_spend, unit = self.device_hours()
        text = f"{self._num_done} of {self._total} stages done, {clock_of(time.monotonic() - self._begun)} gone"
        text += f", {self._bound} {clock_of(left)} left" if left is not None else ""
        text += f"; {spent:.3g} {unit} spent" + (f", {self._bound} {to_spend:.3g} left" if to_spend is not None else "")
        others = {"stopped": self._stopped.total(), "failed": self._failed.total()}
        return text + "".join(f"; {number} {name}" for name, number in others.items() if number)

    @property
    def _num_done(self) -> int:
        """Stages that this run has finished."""
        return self._done.total() - self._found


def _accuracy(figures: dict[str, Any]) -> str:
    return f"  val {figures['val_accuracy']:.2f} %" if "val_accuracy" in figures else ""


def clock_of(seconds: float) -> str:
    """Days, hours, minutes and seconds as one writes them."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:")  # minutes and seconds while there are no hours
