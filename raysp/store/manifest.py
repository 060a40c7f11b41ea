"""What sweeps were asked for: one small file per plan, beside the stages.

Owns `<root>/plans/<id>.json`, from which a report tells what is still to come, what failed and what was skipped. Refuses to say
what has happened: that is the stages' directories' to say. Contract: the id is a hash of the stages that are wanted, so that the
same sweep given again is the same file, which is written once and never changed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysp.store.keys import SHORT_KEY_DIGITS, Config, key_of
from raysp.store.location import Location, entries, exists
from raysp.store.reasons import why
from raysp.store.records import PLANS, Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile, read_file, unreadable

PLAN_FORMAT = 1
_LABEL = re.compile(r"[\w.-]+")
_PLAN_FILE = re.compile(rf"[0-9a-f]{{{SHORT_KEY_DIGITS}}}\.json")


@dataclass(frozen=True, kw_only=True)
class PlannedStage(Config):
    """One stage of a sweep, before it was trained.

    Raises:
        ValueError: a field holds what it can't.
    """

    key: str
    label: str
    name: str
    note: str
    epochs: int
    parents: tuple[str, ...] = ()
    """Their keys."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label != f"{self.name}-{self.key[:SHORT_KEY_DIGITS]}" or not _LABEL.fullmatch(self.label) or self.epochs < 0:
            raise ValueError(f"stage {self.label!r:.80} of key {self.key!r:.20}, {self.epochs} epochs")
        _check_printable(self.key, self.note, *self.parents)


@dataclass(frozen=True, kw_only=True)
class Manifest(Config):
    """What one sweep was asked to train.

    Raises:
        ValueError: a field holds what it can't.
    """

    id: str
    name: str
    """The preset's."""
    command: str
    """The command line, without the interpreter."""
    leaves: tuple[str, ...]
    """Keys of its configurations' last stages."""
    stages: tuple[PlannedStage, ...]
    """All of its stages, ancestors first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages or not {stage.key for stage in self.stages}.issuperset(self.leaves):
            raise ValueError(f"{len(self.stages)} stages, not all of the {len(self.leaves)} that are wanted")
        _check_printable(self.id, self.name, self.command)


def _check_printable(*texts: str) -> None:
    for text in texts:
        if not text.isprintable():
            raise ValueError(f"{text!r:.80} is no line of text")


def manifest_of(leaves: Sequence[Stage], name: str, command: str) -> Manifest:
    """Describe what a sweep is to train.

    Args:
        leaves: its configurations' last stages, each once.
        name: the preset's.
        command: the command line; what can't be printed of it is escaped.
    """
    keys = tuple(stage.key for stage in leaves)
    lineage = {s.key: s for leaf in leaves for s in leaf.lineage()}  # ancestors first
    stages = tuple(
        PlannedStage(
            key=s.key, label=s.label, name=s.name, note=s.note, epochs=s.epochs, parents=tuple(p.key for p in s.parents.values())
        )
        for s in lineage.values()
    )
    # A command may hold anything that a shell takes.
    said = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in command)
    return Manifest(id=key_of(tuple(sorted(keys)))[:SHORT_KEY_DIGITS], name=name, command=said, leaves=keys, stages=stages)


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Keep a sweep's plan under its results root, if it isn't there yet. Raises NoLongerOwner."""
    path = store.root / PLANS / f"{manifest.id}.json"
    if not exists(path):
        store.write(path, json.dumps({"format": PLAN_FORMAT, **manifest.to_json()}, indent=1).encode())


def read_manifests(root: Location) -> tuple[list[Manifest], list[DamagedFile]]:
    """All plans under a results root in the order of their ids, and what could not be read."""
    found: list[Manifest] = []
    damaged: list[DamagedFile] = []
    for path in sorted((p for p in entries(root / PLANS) if _PLAN_FILE.fullmatch(p.name)), key=lambda p: p.name):
        try:
            content: dict[str, Any] = json.loads(read_file(path) or b"")
            if content.pop("format") != PLAN_FORMAT:
                raise ValueError("another format")
            stages = tuple(PlannedStage(**stage) for stage in content.pop("stages"))
            found.append(Manifest(**content, stages=stages))
        except DamagedFile as error:
            damaged.append(error)
        except OSError as error:
            damaged.append(unreadable(path, error))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            damaged.append(DamagedFile(path, f"not a plan of format {PLAN_FORMAT} ({why(error)})"))
    return found, damaged
