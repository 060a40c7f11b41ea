"""Where results live: one directory per stage, done when its record is there.

Owns the layout under a results root, records, weights, checkpoints, the root's one lock, and the setting aside of damaged files.
Refuses to know what a stage computes or who runs it. Contract: every file appears whole or not at all (written under another
name, flushed, renamed); `record.json` is written last; nothing is ever deleted but a finished stage's checkpoint and leftovers of
an interrupted write. Nothing is unpickled: records are JSON, weights and checkpoints safetensors.

    <root>/.lock                                  who drives a sweep here, held by flock for as long as it lives
    <root>/stages/<name>-<key>/record.json        exists = the stage is done
    <root>/stages/<name>-<key>/weights.safetensors
    <root>/stages/<name>-<key>/checkpoint.safetensors   only while the stage is unfinished
    <root>/stages/<name>-<key>/error.txt          the traceback of the last failure, until the stage succeeds
    <root>/.../<file>.damaged-<n>                 set aside, never read again
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch

from raysp.keys import SHORT_KEY_DIGITS
from raysp.stage import Stage

RECORD_FORMAT = 1
RECORD = "record.json"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
ERROR = "error.txt"
STAGE_DIRECTORY = re.compile(rf"[a-z0-9_]+-[0-9a-f]{{{SHORT_KEY_DIGITS}}}")
WEIGHTS_NAME = re.compile(r"\w+\.safetensors", re.ASCII)


class DamagedFile(Exception):
    """A file of the store can't be trusted; says which and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


class StoreBusy(Exception):
    """Another process drives a sweep in this results root."""


class NoLongerOwner(Exception):
    """The results root has been taken over by a newer run; this one must write nothing more."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A results root, seen by a driver or by a worker. Paths inside it derive from checked names and keys alone."""

    root: Path
    """Absolute path of the results root; it need not exist before the first write."""
    run_id: str = ""
    """The run that holds the lock; empty for readers. A worker that outlives its driver is refused by it."""

    def directory(self, stage: Stage) -> Path:
        """Where the stage's files are or will be."""
        return self.root / "stages" / stage.label

    def read(self, stage: Stage) -> dict[str, Any] | None:
        """Return the stage's record, or None while it isn't done. Writes nothing.

        Raises:
            DamagedFile: the record doesn't parse or is another stage's, or a file that it lists is missing or altered.
        """
        directory = self.directory(stage)
        if os.path.lexists(directory) and not directory.is_dir():
            raise DamagedFile(directory, "not a directory")
        path = directory / RECORD
        record = read_record(path)
        if record is None:
            return None
        if record["key"] != stage.key:
            raise DamagedFile(path, f"belongs to key {record['key']!s:.64}, expected {stage.key}")
        verify_files(path.parent, record)
        return record

    def commit(self, stage: Stage, record: Mapping[str, Any]) -> None:
        """Write the record, which makes the stage done, then drop its checkpoint and old error.

        Raises:
            NoLongerOwner: the root has a new owner.
            ValueError: the record holds NaN or infinity.
        """
        directory = self.directory(stage)
        weights = directory / WEIGHTS
        files = {WEIGHTS: _fingerprint(weights)} if weights.exists() else {}
        content = {"format": RECORD_FORMAT, **record, "files": files}
        text = json.dumps({**content, "sha256": _record_digest(content)}, indent=1, allow_nan=False)
        self._write(directory / RECORD, text.encode())
        self.drop_leftovers(stage)

    def drop_leftovers(self, stage: Stage) -> None:
        """Remove a finished stage's checkpoint and old error."""
        for leftover in (CHECKPOINT, ERROR):
            with suppress(OSError):  # the record is written; a leftover does no harm
                (self.directory(stage) / leftover).unlink(missing_ok=True)

    def save_weights(self, stage: Stage, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
        """Write the stage's weights (safetensors), and with them what the file says about itself."""
        self._write(self.directory(stage) / WEIGHTS, safetensors.torch.save(plain_tensors(tensors), dict(metadata or {})))

    def save_checkpoint(self, stage: Stage, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the stage's checkpoint by these tensors and this JSON state, in one file with a digest over both."""
        plain = plain_tensors(tensors)
        text = json.dumps(state, allow_nan=False)
        metadata = {"state": text, "key": stage.key, "sha256": _digest(plain, stage.key + text)}
        self._write(self.directory(stage) / CHECKPOINT, safetensors.torch.save(plain, metadata))

    def load_checkpoint(self, stage: Stage) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the last checkpoint's tensors and state, or None. Raises DamagedFile."""
        path = self.directory(stage) / CHECKPOINT
        if not os.path.lexists(path):
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if metadata["key"] != stage.key:
                raise DamagedFile(path, f"belongs to key {metadata['key']:.64}, expected {stage.key}")
            if metadata["sha256"] != _digest(tensors, stage.key + metadata["state"]):
                raise DamagedFile(path, "its content doesn't match its digest")
            return tensors, json.loads(metadata["state"])
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            raise DamagedFile(path, f"not a readable checkpoint ({error})") from error

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file so that it is kept but not read again; return its new path."""
        for number in range(1, 1000):
            aside = path.with_name(f"{path.name}.damaged-{number}")
            if not os.path.lexists(aside):
                path.rename(aside)
                return aside
        raise FileExistsError(f"{path}: a thousand damaged versions stand beside it; remove some")

    def write_error(self, stage: Stage, text: str) -> None:
        """Keep the traceback of a failed stage where the user will look for it."""
        self._write(self.directory(stage) / ERROR, text.encode(errors="backslashreplace"))

    def records(self) -> tuple[list[dict[str, Any]], list[DamagedFile]]:
        """All finished stages' records under the root, by directory name, and what could not be read. Checks no weights."""
        found, damaged = [], []
        for directory in sorted(d for d in self.root.glob("stages/*") if STAGE_DIRECTORY.fullmatch(d.name)):
            try:
                if record := read_record(directory / RECORD):
                    found.append(record)
            except DamagedFile as error:
                damaged.append(error)
        return found, damaged

    @contextmanager
    def lock(self) -> Iterator["Store"]:
        """Hold the results root for this process; yields the store as its owner sees it.

        The lock is the kernel's and ends with the process, however that dies; the file only says who holds it.

        Raises:
            StoreBusy: another live process holds it; the message says which.
            OSError: the root can't be created or written.
        """
        path = self.root / ".lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            opened = path.open("a+")
        except OSError as error:
            raise OSError(f"results can't be written to {self.root}: {error.strerror}; give another --storage") from error
        with opened as file:
            _flock(file, path)
            run_id = uuid.uuid4().hex
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, run {run_id}")
            file.flush()
            owner = Store(root=self.root, run_id=run_id)
            for stray in (*self.root.glob(".tmp-*"), *self.root.glob("stages/*/.tmp-*")):
                with suppress(OSError):
                    stray.unlink(missing_ok=True)
            yield owner

    def check_free(self) -> None:
        """Raise StoreBusy if another process holds the root now; writes nothing and takes nothing."""
        path = self.root / ".lock"
        with suppress(FileNotFoundError, NotADirectoryError), path.open() as file:
            _flock(file, path)

    def _check_owner(self) -> None:
        try:
            held_by = (self.root / ".lock").read_text()
        except FileNotFoundError:
            held_by = ""
        if not self.run_id or not held_by.endswith(self.run_id):
            raise NoLongerOwner(f"{self.root} is now driven by {held_by or 'nobody'}; this run writes nothing more")

    def _write(self, path: Path, content: bytes) -> None:
        self._check_owner()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            self.set_aside(path)
        # Asked again just before the rename: a stale worker may have spent its time in between writing.
        write_atomically(path, content, before_rename=self._check_owner)


def write_atomically(path: Path, content: bytes, before_rename: Callable[[], None] = lambda: None) -> None:
    """Make `path` hold `content`: wholly, and on the disk, or not at all. `before_rename` may raise to give up."""
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)  # the rename itself
    finally:
        os.close(handle)


def read_record(path: Path) -> dict[str, Any] | None:
    """Parse a record; None where there is none. Raises DamagedFile when it can't be one of ours."""
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise DamagedFile(path, "not a plain file")
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
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
    if record.pop("sha256", None) != _record_digest(record):
        raise DamagedFile(path, "its content doesn't match its digest")
    return record


def verify_files(directory: Path, record: Mapping[str, Any]) -> None:
    """Compare the files that a record lists with what lies in its directory. Raises DamagedFile for the first that differs."""
    for name, expected in record["files"].items():
        if not WEIGHTS_NAME.fullmatch(name):
            raise DamagedFile(directory / RECORD, f"lists {name!r:.80}, which is not the name of a weights file")
        path = directory / name
        try:
            found = _fingerprint(path)
        except OSError as error:
            raise DamagedFile(path, f"can't be read ({error.strerror})") from error
        if found != expected:
            raise DamagedFile(path, "its content is not what the record says (truncated or altered)")


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU. Raises DamagedFile."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise DamagedFile(path, f"not readable as safetensors ({error})") from error


def _flock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        holder = path.read_text() or "another process"
        raise StoreBusy(f"{path.parent} is in use by {holder}; wait for it or end it") from None


def plain_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU, as safetensors wants them: in one piece each, by name."""
    # safetensors refuses tensors that share memory, and keeps no strides.
    return {name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())}


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


def _record_digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
