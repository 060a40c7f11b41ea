"""Where results live: one directory per stage, done when its record is there.

Owns the layout under a results root, records, weights, checkpoints, and the setting aside of damaged files. Refuses to know
what a stage computes, who runs it, or who may (`raysp.store.lock`). Contract: every file appears whole or not at all, and says
by a digest that it is; `record.json` is written last; nothing is ever deleted but a finished stage's checkpoint and leftovers
of an interrupted write. Nothing is unpickled: records are JSON, weights and checkpoints safetensors.

    <root>/.lock                                  who drives a sweep here (`raysp.store.lock`)
    <root>/stages/<name>-<key>/record.json        exists = the stage is done
    <root>/stages/<name>-<key>/weights.safetensors
    <root>/stages/<name>-<key>/checkpoint.safetensors   only while the stage is unfinished
    <root>/stages/<name>-<key>/rungs.json         what a stage that may be given up was worth at its rungs, while it is unfinished
    <root>/stages/<name>-<key>/error.txt          the traceback of the last failure, until the stage succeeds
    <root>/.../<file>.damaged-<n>                 set aside, never read again
"""

import hashlib
import json
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from raysp.store import lock
from raysp.store.figures import check_rows
from raysp.store.keys import SHORT_KEY_DIGITS
from raysp.store.location import (
    Location,
    clear,
    entries,
    exists,
    is_remote,
    remove,
    remove_unfinished,
    rename,
    size,
    write_atomically,
)
from raysp.store.reasons import why
from raysp.store.stage import Stage
from raysp.store.tensor_files import (
    DamagedFile,
    digest_of,
    fingerprint,
    plain_tensors,
    read_file,
    read_listed,
    unpack,
    unreadable,
)

RECORD_FORMAT = 1
RECORD = "record.json"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
ERROR = "error.txt"
RUNGS = "rungs.json"
PLANS = "plans"
SEARCHES = "searches"
SAME_AS = "same_as"
"""Of a record's metrics: the key of the stage whose results it has taken over, because both train the same."""
SCRATCH = ".raysp-tune"
"""What a runner may keep beside the stages while it runs."""
ABANDONED_AFTER_S = 3600.0
"""In the root itself reports are written, by others too: an unfinished file there is taken for a killed writer's at this age."""
ASIDE = ".damaged-"
"""In the name of what was set aside, followed by a number."""
WEIGHTS_NAME = re.compile(r"\w+\.safetensors", re.ASCII)
READERS = 16
"""Stages that are looked up at once: an object store answers slowly, but many at a time."""


class NoLongerOwner(Exception):
    """The results root has been taken over by a newer run; this one must write nothing more."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A results root, seen by a driver or by a worker. Paths inside it derive from checked names and keys alone."""

    root: Location
    """The results root, an absolute path or a URL's; it need not exist before the first write."""
    run_id: str = ""
    """The run that holds the lock; empty for readers. A worker that outlives its driver is refused by it."""

    def directory(self, stage: Stage) -> Location:
        """Where the stage's files are or will be."""
        return self.root / "stages" / stage.label

    def read(self, stage: Stage) -> dict[str, Any] | None:
        """Return the stage's record, or None while it isn't done. Writes nothing.

        Raises:
            DamagedFile: the record doesn't parse or is another stage's, or a file that it lists is missing or altered.
            OSError: a remote root can't be read.
        """
        return self.read_key(stage.name, stage.key)

    def read_key(self, name: str, key: str) -> dict[str, Any] | None:
        """See `read`: the record of a stage of which its name and key are known."""
        directory = self.root / "stages" / f"{name}-{key[:SHORT_KEY_DIGITS]}"
        if isinstance(directory, Path) and (directory.is_symlink() or (directory.exists() and not directory.is_dir())):
            raise DamagedFile(directory, "not a directory of this results root")
        path = directory / RECORD
        record = read_record(path)
        if record is None:
            return None
        if record["key"] != key:
            raise DamagedFile(path, f"belongs to key {record['key']!s:.64}, expected {key}")
        verify_files(path.parent, record)
        return record

    def commit(self, stage: Stage, record: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        """Write the record, which makes the stage done, then drop its checkpoint and old error.

        Args:
            stage: what is done.
            record: what is to be known of it.
            files: what `save_weights` returned, by the file's name. Should another process write the file again meanwhile, it
                won't match, and the stage isn't done.

        Raises:
            NoLongerOwner: the root has a new owner.
            ValueError: the record holds NaN or infinity.
        """
        content = {"format": RECORD_FORMAT, **record, "files": dict(files)}
        text = json.dumps({**content, "sha256": _record_digest(content)}, indent=1, allow_nan=False)
        self.write(self.directory(stage) / RECORD, text.encode())
        self.drop_leftovers(stage)

    def drop_leftovers(self, stage: Stage) -> None:
        """Remove a finished stage's checkpoint, rungs and old error."""
        for leftover in (CHECKPOINT, RUNGS, ERROR):
            with suppress(OSError):  # the record is written; a leftover does no harm
                remove(self.directory(stage) / leftover)

    def save_weights(
        self, stage: Stage, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Write the stage's weights (safetensors), and with them what the file says about itself; return its entry in the
        record's `files`.
        """
        content = safetensors.torch.save(plain_tensors(tensors), dict(metadata or {}))
        self.write(self.directory(stage) / WEIGHTS, content)
        return fingerprint(content)

    def save_checkpoint(self, stage: Stage, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the stage's checkpoint by these tensors and this JSON state, in one file with a digest over both."""
        plain = plain_tensors(tensors)
        text = json.dumps(state, allow_nan=False)
        metadata = {"state": text, "key": stage.key, "sha256": digest_of(plain, stage.key + text)}
        self.write(self.directory(stage) / CHECKPOINT, safetensors.torch.save(plain, metadata))

    def load_checkpoint(self, stage: Stage) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the last checkpoint's tensors and state, or None. Raises DamagedFile."""
        path = self.directory(stage) / CHECKPOINT
        content = read_file(path)
        if content is None:
            return None
        try:
            tensors, metadata = unpack(content)
            if metadata["key"] != stage.key:
                raise DamagedFile(path, f"belongs to key {metadata['key']:.64}, expected {stage.key}")
            if metadata["sha256"] != digest_of(tensors, stage.key + metadata["state"]):
                raise DamagedFile(path, "its content doesn't match its digest")
            return tensors, json.loads(metadata["state"])
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise DamagedFile(path, f"not a readable checkpoint ({error})") from error

    def save_rung(self, stage: Stage, epoch: int, rung: Mapping[str, Any]) -> None:
        """Keep what the stage was worth after an epoch, beside what is kept of others, and drop an old error.

        Args:
            stage: which has paused.
            epoch: from 1.
            rung: `rows` (see `raysp.planning.halving.Rows`), `time_s` of all epochs so far, and `host`.
        """
        try:
            rungs = self.read_rungs(stage)
        except DamagedFile as error:
            self.set_aside(error.path)
            rungs = {}
        rungs[epoch] = dict(rung)
        content = {"key": stage.key, "rungs": {str(at): rungs[at] for at in sorted(rungs)}}
        text = json.dumps({**content, "sha256": _record_digest(content)}, indent=1, allow_nan=False)
        self.write(self.directory(stage) / RUNGS, text.encode())
        with suppress(OSError):
            remove(self.directory(stage) / ERROR)

    def read_rungs(self, stage: Stage) -> dict[int, dict[str, Any]]:
        """Return what `save_rung` has kept, by epoch. Raises DamagedFile."""
        return read_rungs(self.directory(stage) / RUNGS, stage.key)

    def set_aside(self, path: Location) -> Location:
        """Rename a damaged file so that it is kept but not read again; return its new path. Raises NoLongerOwner."""
        self.check_owner()
        for number in range(1, 1000):
            aside = path.with_name(f"{path.name}{ASIDE}{number}")
            if not exists(aside):
                rename(path, aside)
                return aside
        raise FileExistsError(f"{path}: a thousand damaged versions stand beside it; remove some")

    def write_error(self, stage: Stage, text: str) -> None:
        """Keep the traceback of a failed stage where the user will look for it."""
        self.write(self.directory(stage) / ERROR, text.encode(errors="backslashreplace"))

    def records(self) -> tuple[list[dict[str, Any]], list[DamagedFile]]:
        """All finished stages' records under the root, by directory name, and what could not be read. Checks no weights.

        Raises:
            OSError: the root itself can't be read.
        """
        found, damaged = [], []
        directories = sorted((d for d in entries(self.root / "stages") if ASIDE not in d.name), key=lambda d: d.name)
        with ThreadPoolExecutor(READERS) as pool:
            for record in pool.map(_record_or_damage, directories):
                if isinstance(record, DamagedFile):
                    damaged.append(record)
                elif record:
                    found.append(record)
        return found, damaged

    @contextmanager
    def lock(self, tell: lock.Tell = lambda message: None) -> Iterator["Store"]:
        """Hold the results root for this process; yields the store as its owner sees it.

        Args:
            tell: told when finding out whether a holder lives takes a while.

        Raises:
            StoreBusy: another live process holds it; the message says which.
            OSError: the root can't be created or written.
        """
        with ExitStack() as held:
            try:
                if isinstance(self.root, Path):
                    self.root.mkdir(parents=True, exist_ok=True)
                run_id = held.enter_context(lock.hold(self.root, tell))
            except lock.StoreBusy:
                raise
            except Exception as error:  # object stores have errors of their own
                reason = getattr(error, "strerror", None) or error
                raise OSError(f"results can't be written to {self.root}: {reason}; give another --storage") from error
            if isinstance(self.root, Path):
                now = (self.root / lock.LOCK).stat().st_mtime  # by the file system's own clock
                remove_unfinished(self.root, before=now - ABANDONED_AFTER_S)
                for directory in (self.root / PLANS, self.root / SEARCHES, *self.root.glob("stages/*")):
                    remove_unfinished(directory)  # below the root only its owner writes
                clear(self.root / SCRATCH)
            yield Store(root=self.root, run_id=run_id)

    def check_free(self) -> None:
        """Raise StoreBusy if another process is known to hold the root now; writes nothing and takes nothing."""
        lock.check_free(self.root)

    def check_owner(self) -> None:
        """Raise NoLongerOwner unless this run holds the root, as seen from this machine."""
        held_by = lock.holder(self.root)
        if not self.run_id or not held_by.endswith(self.run_id):
            if self.run_id and not held_by:
                if is_remote(self.root):
                    raise NoLongerOwner(f"the lock of {self.root} was removed; this run writes nothing more")
                raise NoLongerOwner(
                    f"{self.root} has no lock file that {socket.gethostname()} can see: expected a directory that all nodes "
                    "share, or a URL such as s3://bucket/run"
                )
            raise NoLongerOwner(f"{self.root} is now driven by {held_by or 'nobody'}; this run writes nothing more")

    def write(self, path: Location, content: bytes) -> None:
        """Write a file of this root, wholly or not at all. Raises NoLongerOwner."""
        self.check_owner()
        if isinstance(path, Path) and isinstance(self.root, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if any((self.root / inside).is_symlink() for inside in list(path.relative_to(self.root).parents)[:-1]):
                raise OSError(f"{path.parent} leads out of the results root by a symbolic link; remove it")
            if path.is_dir():
                self.set_aside(path)
        # Asked again just before the last step: a stale worker may have spent its time in between writing.
        write_atomically(path, content, before_rename=self.check_owner)


def read_record(path: Location) -> dict[str, Any] | None:
    """Parse a record; None where there is none. Raises DamagedFile when it can't be one of ours."""
    content = read_file(path)
    if content is None:
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"not readable as JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise DamagedFile(path, f"not a record of format {RECORD_FORMAT}")
    for name, kind in {
        "key": str,
        "stage": str,
        "config": dict,
        "metrics": dict,
        "history": list,
        "rows": list,
        "files": dict,
    }.items():
        if not isinstance(record.get(name), kind):
            raise DamagedFile(path, f"its {name!r} is {type(record.get(name)).__name__}, expected {kind.__name__}")
    try:
        matches = record.pop("sha256", None) == _record_digest(record)
    except ValueError as error:  # a number that JSON doesn't have
        raise DamagedFile(path, f"no record of ours ({error})") from None
    if not matches:
        raise DamagedFile(path, "its content doesn't match its digest")
    return record


def read_rungs(path: Location, key: str) -> dict[int, dict[str, Any]]:
    """What a stage was worth at its rungs, by epoch, as `Store.save_rung` has kept it; nothing where there is no file.

    Raises:
        DamagedFile: it is none of ours.
    """
    content = read_file(path)
    if content is None:
        return {}
    try:
        found = json.loads(content)
        if found.pop("sha256") != _record_digest(found) or found["key"] != key:
            raise ValueError("its content doesn't match its digest, or its stage")
        rungs = {int(epoch): rung for epoch, rung in found["rungs"].items()}
        for rung in rungs.values():
            check_rows(rung["rows"])
            float(rung["time_s"])
        return rungs
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(path, f"no rungs of ours ({why(error)})") from error


def label_of(record: Mapping[str, Any]) -> str:
    """The name of a record's directory, which is its stage's label."""
    return f"{record['stage']}-{record['key'][:SHORT_KEY_DIGITS]}"


def verify_files(directory: Location, record: Mapping[str, Any]) -> None:
    """Compare the files that a record lists with what lies in its directory: the whole content, or the size alone where reading
    it would be a download. Raises DamagedFile for the first that differs.
    """
    for name, expected in record["files"].items():
        if not WEIGHTS_NAME.fullmatch(name):
            raise DamagedFile(directory / RECORD, f"lists {name!r:.80}, which is not the name of a weights file")
        path = directory / name
        if isinstance(path, Path):
            found: Any = fingerprint(read_listed(path))
        else:
            found = {**expected, "bytes": size(path)}
        if found != expected:
            raise DamagedFile(path, "its content is not what the record says (missing, truncated or altered)")


def _record_or_damage(directory: Location) -> dict[str, Any] | DamagedFile | None:
    path = directory / RECORD
    try:
        record = read_record(path)
    except DamagedFile as error:
        return error
    except OSError as error:
        return unreadable(path, error)
    if record is not None and label_of(record) != directory.name:
        return DamagedFile(path, f"belongs to {record['stage']!s:.64}-{record['key']!s:.12}, not to a directory of this name")
    return record


def _record_digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()
