"""Which stage Ray Tune's next trial is to run.

Owns the order in which jobs are given out, and given out again when their worker died. Refuses to run them
(`raysp.engine.ray.trial`) and to know how Tune is started (`raysp.engine.ray.tune`). Contract: what became of a stage is read
from its record, never from what Tune says; a stage whose own code raised is not given out again.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher
from rich.markup import escape

from raysp.engine import termination
from raysp.engine.context import Place
from raysp.engine.copies import next_to_train, settle
from raysp.engine.progress import Progress
from raysp.engine.ray.causes import last_error, low_memory
from raysp.engine.ray.cluster import Slots
from raysp.engine.ray.trial import Job
from raysp.planning.plan import JobQueue
from raysp.store.record_files import read_record
from raysp.store.records import RECORD, NoLongerOwner
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile

SAY_EVERY_S = 60.0
"""Seconds between two lines that say that no node can run a stage."""

LONGEST_PAUSE_S = 30.0
"""Seconds at most before a stage whose worker died is given out again."""


def pause_before(retry: int) -> float:
    """Seconds before a stage is tried again, doubled each time. Ray takes a while to notice that a node has gone, and gives it
    what comes meanwhile, so that retries without a pause would all be lost there.

    Args:
        retry: which one of this stage, from 1.
    """
    return min(2.0 ** min(retry - 1, 10), LONGEST_PAUSE_S)


@dataclass(frozen=True, kw_only=True)
class _Retry:
    """A job whose worker died, and when it is to be given out again."""

    job: Job
    due: float
    """By `time.monotonic`."""
    pause_s: float


class GraphSearcher(Searcher):
    """Gives out a graph of stages to Ray Tune, each when its parents have records; one whose worker died again, after a pause."""

    def __init__(self, queue: JobQueue, place: Place, progress: Progress, slots: Slots, retries: int) -> None:
        super().__init__(metric="epoch", mode="max")
        self.queue = queue
        self.progress = progress
        self.running: dict[str, Job] = {}
        """By trial."""
        self.retries: dict[str, _Retry] = {}
        """What waits to be given out again, by the trial that was lost."""
        self.trials: list[Any] = []
        """Tune's own."""
        self.lost: Exception | None = None
        """Why the run can't go on: the results root is another's, or can't be read."""
        self._place, self._slots, self._retries = place, slots, retries
        self._losses: Counter[str] = Counter()
        """Workers that died, by the stage's key."""
        self._said = 0.0

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Accept whatever Tune sets: there is nothing to search."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next stage that is ready; None while all that is left waits for running ones or a slot; FINISHED at the end."""
        termination.check()
        if len(self.running) >= self._slots.to_hand_out() and self.lost is None:
            self._say_if_stuck()
            return None
        job = None if self.lost else self._due() or self._next()
        if job is None:
            # What runs may have to be tried again, and after FINISHED Tune asks no more. With nothing running or waiting, None
            # would make it poll for minutes: nothing could become ready. Otherwise it asks once a second, so that a pause ends.
            return Searcher.FINISHED if self.lost or not (self.running or self.retries) else None
        self.running[trial_id] = job
        self.progress.started(job.stage)
        return {"job": job}

    def _due(self) -> Job | None:
        """A job whose pause is over."""
        over = (trial for trial, retry in self.retries.items() if retry.due <= time.monotonic())
        trial = next(over, None)
        return None if trial is None else self.retries.pop(trial).job

    def _next(self) -> Job | None:
        """A job that is ready for the first time."""
        try:
            stage = next_to_train(self.queue, self._place, self.progress)
        except (NoLongerOwner, OSError) as error:
            self._lose(error)
            return None
        return None if stage is None else Job(stage, self.queue.until(stage))

    def _lose(self, error: Exception) -> None:
        """Note that the run can't go on."""
        self.lost = self.lost or error
        self.progress.say(f"[bold red]error[/]    {escape(str(error))}; the run ends with the stages that are running")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Believe the record, not Tune."""
        job = self.running.pop(trial_id, None)
        if job is None:
            return
        result = result or {}
        if not error:
            del self._losses[job.stage.key]  # a stage that pauses at rungs is given out several times, each with its own retries
        if error and self.lost is None and self._losses[job.stage.key] < self._retries:
            self._losses[job.stage.key] += 1
            pause_s = pause_before(self._losses[job.stage.key])
            self.retries[trial_id] = _Retry(job=job, due=time.monotonic() + pause_s, pause_s=pause_s)
            return
        if "disowned" in result:
            self.lost = self.lost or NoLongerOwner(result["disowned"])
        try:
            trial = next((trial for trial in self.trials if error and trial.trial_id == trial_id), None)
            cause = f", at last because {low}" if (low := low_memory(last_error(trial))) else ""
            self._judge(job.stage, job.until, result.get("error") or result.get("disowned"), error, cause)
        except (NoLongerOwner, OSError) as unread:  # no verdict on the stage
            self._lose(unread)

    def _judge(self, stage: Stage, until: int | None, message: str | None, error: bool, cause: str) -> None:
        """Pass on what became of a stage. Raises OSError where that can't be read, or what goes with it can't be written."""
        record: dict[str, Any] = {}
        if message is None and until is not None and (rows := self._rung(stage, until)):
            self.queue.paused(stage, until, rows)
            self.progress.paused(stage, until)
        elif message is None and (message := self._why_not_done(stage, error, cause, record)) is None:
            self.queue.done(stage, record)
            self.progress.finished(stage, record["rows"])
        else:
            skipped = self.queue.failed(stage, message)
            self.progress.failed(stage, message, skipped)
        settle(self.queue, self._place, self.progress)

    def _rung(self, stage: Stage, epoch: int) -> list[dict[str, Any]]:
        """What a stage was worth at its rung; nothing if it didn't get there."""
        try:
            rungs = self._place.store.read_rungs(stage)
            return rungs[epoch]["rows"] if epoch in rungs else []
        except DamagedFile:
            return []

    def _why_not_done(self, stage: Stage, error: bool, cause: str, record: dict[str, Any]) -> str | None:
        """What to say of a stage without a record; None, and the record filled in, where there is one."""
        path = self._place.store.directory(stage) / RECORD
        try:
            if (found := read_record(path)) is not None:
                record |= found
                return None
        except DamagedFile as damaged:
            return f"{stage.label}: whether it is done can't be told: {damaged}"
        end = f"its worker died {_times(self._losses[stage.key] + 1)}{cause}" if error else "it ended without a record"
        return f"{stage.label}: {end}; run the same command again to go on from its checkpoint"

    def _say_if_stuck(self) -> None:
        if not self._slots.now() and time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            self.progress.say(f"[yellow]waiting[/]  no node can run a stage now, which needs {self._slots.request}")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for a restore that we never make; a live display can't be pickled."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the records are the state."""


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
