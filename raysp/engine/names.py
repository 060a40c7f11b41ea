"""Stages' names for one line of a terminal: the kind, and what tells a stage from the others of its kind.

Owns which part of a note is said. Contract: two stages of a run never have one name.
"""

from collections.abc import Iterable

from raysp.store.keys import SHORT_KEY_DIGITS
from raysp.store.stage import Stage

ALWAYS = 2
"""Parts of a note, from the first, that are said in any case."""


class ShortNames:
    """Names of a run's stages. Notes are taken apart at their commas; what all of a kind say is left out, after the
    first parts.

    Args:
        stages: all of the run, as far as they are known.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        self._shared: dict[str, set[str]] = {}
        self._notes: dict[tuple[str, str], set[str]] = {}
        self.add(stages)

    def add(self, stages: Iterable[Stage]) -> None:
        """More stages belong to the run."""
        for stage in stages:
            parts = set(_parts(stage))
            self._shared[stage.name] = self._shared.get(stage.name, parts) & parts
            self._notes.setdefault((stage.name, stage.note), set()).add(stage.key)

    def of(self, stage: Stage) -> str:
        """One stage's name."""
        if not stage.note:
            return stage.label
        parts = _parts(stage)
        shared = self._shared.get(stage.name, ())
        told = parts[:ALWAYS] + [part for part in parts[ALWAYS:] if part not in shared]
        name = f"{stage.name} {', '.join(told)}"
        alone = len(self._notes.get((stage.name, stage.note), ())) < 2
        return name if alone else f"{name} ({stage.key[:SHORT_KEY_DIGITS]})"


def _parts(stage: Stage) -> list[str]:
    return stage.note.split(", ")
