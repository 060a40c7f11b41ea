"""Files of records and of rungs: JSON that says by a digest that it is what was written.

Owns what must be in them. Refuses to know where they lie (`raysp.store.records`). Contract: whatever is read here has the fields
that everyone relies on, of their types; what they hold beyond that is read with mistrust elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from raysp.store.figures import check_rows
from raysp.store.location import Location
from raysp.store.reasons import why
from raysp.store.tensor_files import DamagedFile, read_file

RECORD_FORMAT = 1


def sealed(content: Mapping[str, Any]) -> bytes:
    """A file's content, with a digest over it. Raises ValueError for NaN and infinity, which JSON doesn't have."""
    return json.dumps({**content, "sha256": _digest(content)}, indent=1, allow_nan=False).encode()


def read_record(path: Location) -> dict[str, Any] | None:
    """Parse a record; None where there is none. Raises DamagedFile when it can't be one of ours."""
    content = read_file(path)
    if content is None:
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, why(error)) from error
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
        matches = record.pop("sha256", None) == _digest(record)
    except ValueError as error:  # a number that JSON doesn't have
        raise DamagedFile(path, f"no record of ours ({why(error)})") from None
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
        if found.pop("sha256") != _digest(found) or found["key"] != key:
            raise ValueError("its content doesn't match its digest, or its stage")
        rungs = {int(epoch): rung for epoch, rung in found["rungs"].items()}
        for rung in rungs.values():
            check_rows(rung["rows"])
            float(rung["time_s"])
        return rungs
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(path, f"no rungs of ours ({why(error)})") from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
