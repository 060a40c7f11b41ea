"""Stages that train the same: finding it out, and finishing one from another's directory.

Owns the copy. Refuses to decide who trains (`raysp.planning.equals`). Contract: a copied stage has the weights and the figures
that it would have got by training, bit for bit; it has taken no time, and its metrics say whose they are.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from raysp.engine.context import Parent, Place, read_parent
from raysp.engine.progress import Progress
from raysp.planning.equals import Equals
from raysp.planning.plan import JobQueue
from raysp.planning.proposals import set_aside
from raysp.store.keys import SHORT_KEY_DIGITS
from raysp.store.location import Location, Unreachable, entries
from raysp.store.record_files import read_record, read_rungs
from raysp.store.records import READERS, RECORD, RUNGS, SAME_AS, Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile, fingerprint, read_listed

PARENTS_KEPT = 512
"""Records of parents that are kept in memory: many stages have the same ones."""


def equals_in(store: Store) -> Equals:
    """Who trains for whom in a results root. Reads there when it is asked, writes nothing."""

    @lru_cache(PARENTS_KEPT)  # a stage is itself alone
    def parent_of(stage: Stage) -> Parent:
        return read_parent(stage, store)

    def canonical(stage: Stage) -> str | None:
        if stage.canonical is None:
            return None
        try:
            return stage.canonical_key({role: parent_of(parent) for role, parent in stage.parents.items()})
        except DamagedFile:
            return None  # the stage itself will say so

    return Equals(canonical, lambda name: _done(store, name))


def _done(store: Store, name: str) -> dict[str, str]:
    """Keys of one kind's finished stages by the key that they share with those that train the same; copies where nothing else is
    left.
    """
    directories = [d for d in entries(store.root / "stages") if d.name[: -SHORT_KEY_DIGITS - 1] == name]

    def read(number: int) -> Mapping[str, Any]:
        try:
            return read_record(directories[number] / RECORD) or {}
        except Unreachable:
            raise
        except (DamagedFile, OSError):  # nobody's whose results are needed
            return {}

    with ThreadPoolExecutor(READERS) as pool:
        records = [record for record in pool.map(read, range(len(directories))) if isinstance(record.get("canonical"), str)]
    records.sort(key=lambda record: (SAME_AS not in record["metrics"], record["key"]))
    return {record["canonical"]: record["key"] for record in records}


def next_to_train(queue: JobQueue, place: Place, progress: Progress) -> Stage | None:
    """The next stage of a queue that must be trained; those that need a copy alone are finished on the way.

    Raises:
        NoLongerOwner: another run has taken the results root over.
        OSError: a copy can't be made.
    """
    progress.following = queue.following
    while stage := queue.next():
        first = queue.same_as(stage)
        if first is None:
            return stage
        try:
            record = copy_results(stage, first, place)
        except DamagedFile as damage:
            progress.say(set_aside(damage, place.store))
            queue.trains_itself(stage)
            continue
        queue.done(stage, record)
        progress.copied(stage, first, record["rows"])
        settle(queue, place, progress)
    return None


def settle(queue: JobQueue, place: Place, progress: Progress) -> None:
    """Decide at a queue's rungs; those that are given up together with another get a copy of what that one was worth there.

    Raises:
        NoLongerOwner: another run has taken the results root over.
        OSError: a copy can't be made.
    """
    stopped = queue.settle()
    copy_rungs(queue, place.store, stopped)
    progress.stopped(stopped)


def copy_rungs(queue: JobQueue, store: Store, stopped: Iterable[Stage]) -> None:
    """Give those of the given-up stages that follow another what that one was worth at its rungs. Raises what `settle` raises."""
    for stage in stopped:
        if first := queue.same_as(stage):
            with suppress(DamagedFile):  # nothing depends on it
                rungs = read_rungs(_directory(store, stage, first) / RUNGS, first)
                for epoch, rung in rungs.items():
                    store.save_rung(stage, epoch, {**rung, "time_s": 0.0, SAME_AS: first})


def copy_results(stage: Stage, first: str, place: Place) -> dict[str, Any]:
    """Finish a stage with the results of another that trains the same; return its record.

    Args:
        stage: which.
        first: the other's key.
        place: where to.

    Raises:
        DamagedFile: the other's files can't be trusted.
        NoLongerOwner: another run has taken the results root over.
        OSError: a file can't be read or written.
    """
    store = place.store
    source = _directory(store, stage, first)
    record = store.read_key(stage.name, first)
    if record is None:
        raise DamagedFile(source / RECORD, "can't be read (No such file or directory)")
    columns = stage.columns(stage.config) if stage.columns else {}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record |= {
        "key": stage.key,
        "config": stage.config.to_json(),
        "metrics": {**record["metrics"], SAME_AS: first},
        "rows": [{**row, **columns} for row in record["rows"]],
        "time_s": 0.0,
        "started": now,
        "finished": now,
        "labels": dict(place.labels),
    }
    files = {name: _copy(source / name, known, stage, store) for name, known in record["files"].items()}
    store.commit(stage, record, files)
    return record


def _directory(store: Store, stage: Stage, first: str) -> Location:
    """Where the stage of the key `first` lies, which is of this one's kind."""
    return store.root / "stages" / f"{stage.name}-{first[:SHORT_KEY_DIGITS]}"


def _copy(path: Location, known: Mapping[str, Any], stage: Stage, store: Store) -> Mapping[str, Any]:
    """Write a file of another stage into this one's directory; return its entry in the record's `files`."""
    content = read_listed(path)
    if fingerprint(content) != known:
        raise DamagedFile(path, "its content is not what the record says (truncated or altered)")
    store.write(store.directory(stage) / path.name, content)
    return known
