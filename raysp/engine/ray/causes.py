"""Why a worker died, in one sentence.

Owns reading Ray's accounts of it. Refuses to decide what becomes of the worker's stage (`raysp.engine.ray.searcher`).
"""

import re
from pathlib import Path
from typing import Any

LOW_MEMORY = re.compile(
    r"Memory on the node \(IP: ([^,]+), [^)]*\).*? was ([\d.]+ ?[KMGT]?B)(?: used)? / ([\d.]+ ?[KMGT]?B)(?: limit)? \(([\d.]+)\)",
    re.DOTALL,
)
"""What Ray's memory monitor says when it ends workers, before the kernel would end any process: node, used, limit, share."""


def last_error(trial: Any) -> str:
    """The text of a trial's last error, if there is one."""
    try:
        return Path(trial.error_file).read_text(errors="replace")  # not `get_error`, whose file is written later
    except (OSError, TypeError, AttributeError):
        return ""


def low_memory(error: str) -> str:
    """That a node was low on memory, and what to do, where an error comes from that; else nothing."""
    found = LOW_MEMORY.search(error)
    if found is None:
        return ""
    node, used, limit, share = found.groups()
    return (
        f"node {node} was low on memory ({used} of {limit}, {100 * float(share):.0f} %) and Ray ended workers there: give a "
        "smaller --max-concurrent, or the node more memory"
    )


def cause_of(error: str) -> str:
    """The cause, from the text of a trial's last error.

    Args:
        error: a traceback, or nothing.
    """
    if found := low_memory(error):
        return found
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"[\w.]*(Error|Lost|Unreachable|Exception)\b", line)]
    return (said or lines or ["its worker died"])[-1].partition(" Some common causes")[0][:300]  # Ray's advice fits no stage
