"""Measurements as files beside a model's record: `pi-<exit>-<protocol>.json`.

Owns their names, and reading them with mistrust; needs no extra. Contract: a file is about the very weights whose digest it
names; one about others, or with numbers that can't be, is named and left out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysp.latency.protocols import MEANING
from raysp.store.location import Location, entries
from raysp.store.reasons import why
from raysp.store.records import WEIGHTS
from raysp.store.tensor_files import DamagedFile, read_file, unreadable

FORMAT = 1
_NAME = re.compile(r"pi-(?P<exit>final|ac\d+)-(?P<protocol>[a-z0-9]+)\.json", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class MeasuredFile:
    """What is compared of a measurement; the file holds more."""

    exit: str
    protocol: str
    time_s: float
    """Median wall time of a warm run."""
    bytes: float
    """Sent by both parties in a warm run, mean."""
    predicted_s: float | None
    predicted_bytes: float | None
    """What the cost model had said, where there was one."""
    others_cores: float | None = None
    """Cores that other processes kept busy meanwhile; None where nobody knows."""
    processor: str | None = None
    """Of the machine that it was measured on."""


def name_of(exit: str, protocol: str) -> str:  # noqa: A002 (the field's word)
    """The file's name."""
    return f"pi-{exit}-{protocol}.json"


def read_measurements(directory: Location, record: Mapping[str, Any]) -> tuple[list[MeasuredFile], list[DamagedFile]]:
    """All measurements of a finished stage's model, by file name, and what could not be used.

    Args:
        directory: the stage's.
        record: its record, whose `files` say which weights are there.
    """
    found: list[MeasuredFile] = []
    damaged: list[DamagedFile] = []
    try:
        paths = sorted(entries(directory), key=lambda path: path.name)
    except OSError as error:
        return found, [unreadable(directory, error)]
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            try:
                found.append(_read(path, match["exit"], match["protocol"], record))
            except DamagedFile as error:
                damaged.append(error)
            except OSError as error:
                damaged.append(unreadable(path, error))
    return found, damaged


def _read(path: Location, exit: str, protocol: str, record: Mapping[str, Any]) -> MeasuredFile:  # noqa: A002
    try:
        content = json.loads(read_file(path) or b"")
        if content["format"] != FORMAT or (content["exit"], content["protocol"]) != (exit, protocol) or protocol not in MEANING:
            raise DamagedFile(path, f"not a measurement of format {FORMAT} of this exit and protocol")
        if content["weights"] != record["files"][WEIGHTS]:
            raise DamagedFile(path, "measured with other weights than these; measure again")
        predicted = content.get("predicted") or {}
        return MeasuredFile(
            exit=exit,
            protocol=protocol,
            time_s=_number(content["time_s"]),
            bytes=_number(content["bytes"]),
            predicted_s=_number(predicted["time_s"]) if predicted else None,
            predicted_bytes=_number(predicted["bytes"]) if predicted else None,
            others_cores=None if content.get("others_cores") is None else _number(content["others_cores"]),
            processor=str(content["machine"]["processor"])[:100] if "machine" in content else None,
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedFile(path, f"not a measurement of ours ({why(error)})") from None


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 2.0**53:
        raise ValueError(f"{value!r:.40}; expected a number of at least 0")
    return float(value)
