"""By which code the records of a report were trained, where that isn't the code that reports them.

Owns one sentence. Refuses to judge: a stage whose results changed with its code has another key (its version), so that other code
is no fault by itself. Contract: what a record doesn't say is not counted.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raysp.engine.sweep import git_state

SHOWN_DIGITS = 12
MOST_NAMED = 3
"""Commits; the others are counted."""


@functools.cache
def code_now() -> Mapping[str, Any]:
    """The code that runs, as `raysp.engine.sweep.git_state` gives it when it is first asked for."""
    return git_state()


def code_note(records: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> str:
    """What is to be said of the code that trained these records; empty where it is this one, or nothing is known of either.

    Args:
        records: whose `labels` hold `git`, as `raysp.engine.sweep.git_state` gives it.
        now: the same of the code that runs (`code_now`).
    """
    if not now:
        return ""
    found: Counter[str] = Counter()
    for record in records:
        git = record.get("labels", {}).get("git")
        if not isinstance(git, dict) or not isinstance(git.get("commit"), str):
            continue
        if git["commit"] != now["commit"] or git.get("dirty"):
            found[git["commit"][:SHOWN_DIGITS] + (" with changes" if git.get("dirty") else "")] += 1
    if not found:
        return ""
    named = [f"{commit} ({count})" for commit, count in found.most_common(MOST_NAMED)]
    more = len(found) - len(named)
    told = ", ".join(named) + (f" and {more} more" if more else "")
    changes = " with changes" if now.get("dirty") else ""
    return (
        f"{found.total()} of {len(records)} records are by other code than this ({now['commit'][:SHOWN_DIGITS]}{changes}): {told}"
    )
