"""What a stage is: a frozen description with a key computed from it.

Owns `Stage`, and `StageResult`, which a stage's function hands back. Refuses to know where a stage runs
(`raysp.engine.context`), how its result is kept (`raysp.store.records`) or who schedules it. Contract: two stages with one key
are the same stage.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raysp.store.keys import SHORT_KEY_DIGITS, Config, key_of

if TYPE_CHECKING:
    from raysp.engine.context import Context, Parent


@dataclass(kw_only=True)
class StageResult:
    """What a stage's function returns; all of it must be JSON."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """What children and people read: sensitivities, the chosen epoch, normalisation."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One dict per epoch."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One dict per exit that could be deployed; the rows of results.csv."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One expensive step of a sweep.

    Raises:
        ValueError: the name is not of lower-case letters, digits and underscores (it names a directory).
    """

    name: str
    """Which kind of stage, e.g. "mask"; the start of its directory's name."""
    version: int
    """Raised by hand when the stage's code starts to give other results for the same configuration."""
    config: Config
    """Everything that the result depends on, except the parents."""
    run: Callable[[Any, "Context"], StageResult]
    """A module-level function of (config, context); not part of the key."""
    epochs: int
    """Epochs that the stage trains; what a plan counts."""
    parents: Mapping[str, "Stage"] = field(default_factory=dict)
    """The stages whose results this one reads, by role."""
    stoppable: bool = False
    """Whether it can pause at a rung, and be given up there: see `raysp.planning.halving`. Not part of the key."""
    stands_for: int = 1
    """Trainings in one: a network with several auxiliary classifiers takes the place of one network for each. Not part of the
    key."""
    canonical: Callable[[Any, Mapping[str, "Parent"]], Config] | None = None
    """Of the configurations that train the same, the one that stands for them all, from a stage's configuration and its finished
    parents by role. Training it must give the same weights and figures, bit for bit. A module-level function; not part of the
    key."""
    columns: Callable[[Any], Mapping[str, Any]] | None = None
    """Those columns of the rows that tell such configurations apart, from the configuration; not part of the key."""
    note: str = ""
    """What tells it from its kind, in a few words for people, the most telling first, e.g. "435, senet, seed 0"; not part of the
    key."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.name):
            raise ValueError(f"stage name {self.name!r}; expected lower-case letters, digits and underscores, 41 at most")

    @cached_property
    def key(self) -> str:
        """The stage's identity, 64 hex digits: name, version, configuration and the parents' keys by role."""
        parents = {role: parent.key for role, parent in self.parents.items()}
        return key_of({"name": self.name, "version": self.version, "config": self.config, "parents": parents})

    @property
    def label(self) -> str:
        """The stage's directory name, `<name>-<12 hex digits>`; what messages about files call it."""
        return f"{self.name}-{self.key[:SHORT_KEY_DIGITS]}"

    def canonical_key(self, parents: Mapping[str, "Parent"]) -> str:
        """The key of what the stage comes to, which stages that train the same share; its own, where it can come to nothing else.

        Args:
            parents: finished, by role.
        """
        if self.canonical is None:
            return self.key
        return dataclasses.replace(self, config=self.canonical(self.config, parents)).key

    def lineage(self) -> Iterator["Stage"]:
        """All ancestors, each before its children, then the stage itself; each key once."""
        seen: set[str] = set()

        def visit(stage: Stage) -> Iterator[Stage]:
            if stage.key not in seen:
                seen.add(stage.key)
                for parent in stage.parents.values():
                    yield from visit(parent)
                yield stage

        return visit(self)
