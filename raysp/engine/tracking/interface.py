"""What a tracker is, to raysp: three calls. Every tracker has a module of its own that makes them.

Owns the form of what is tracked: a run per stage, its epochs, its end. Refuses to know what to do where a tracker
doesn't answer (`raysp.engine.tracking.process`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["done", "failed", "stopped", "interrupted"]
"""How a stage ended; `stopped`: given up for better ones; `interrupted`: the sweep ended before it, and may go on with it."""


class Refused(Exception):
    """A tracker won't take something, however often it is asked."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One stage, as a tracker keeps it."""

    id: str
    """Hex digits, of the stage's key and the results root: the same when the sweep is resumed."""
    name: str
    """As the sweep's own table names the stage."""
    kind: str
    """Which kind of stage, e.g. "mask"."""
    label: str
    """The stage's directory name."""
    sweep: str
    """The results root."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The stage's configuration: names with dots, and numbers, words, None, or lists as JSON."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The key, the parents' labels, and where the record will be."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended."""

    status: Status
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of finished models, by exit and name: `ac3/test_accuracy`."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What else is to be known: an error's message, or the stage whose results were taken over."""


class Tracker(Protocol):
    """Takes runs. Any call may take long, or raise: `Refused`, or what the tracker's package raises where it can't be reached."""

    def open(self, run: Run) -> int:
        """Begin a run, or go on with the one of the same id; returns the last epoch that it holds, 0 for none."""

    def epoch(self, run: Run, epoch: int, figures: Mapping[str, float]) -> None:
        """One epoch's figures, from 1."""

    def close(self, run: Run, ending: Ending) -> None:
        """End a run that is open."""
