"""Test accuracy by class, as the record of a finished model keeps it.

Owns the form: `metrics["test_by_class"]` has how many test images each class has, and per exit each class's accuracy; the metrics
of a baseline name the classes where they have names. Refuses to compare models (`analysis`). Contract: records of before it was
kept have none, and to every reader here that is nothing known.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

BY_CLASS = "test_by_class"
"""Field of a record's metrics: {"images": [a count per class], "percent": {exit: [percent per class, or None]}}, both in the
order of labels; None where a class has no test image."""
NAMES = "classes"
"""Field of a baseline's metrics: the classes' names in the order of labels."""
DECIMALS = 2
"""Of a percentage: enough to tell the images of a class apart where it has fewer than 10,000, and a thousand classes take a few
kilobytes."""


def by_class(images: Sequence[int], right: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What a record keeps under `BY_CLASS`.

    Args:
        images: how many test images each class has.
        right: of each exit, how many of them it has right.
    """
    percent = {
        name: [round(100.0 * hit / of, DECIMALS) if of else None for hit, of in zip(hits, images, strict=True)]
        for name, hits in right.items()
    }
    return {"images": list(images), "percent": percent}


def named(classes: Sequence[str]) -> dict[str, list[str]]:
    """What a baseline's metrics keep under `NAMES`; nothing where classes have no names.

    A folder's name may hold what is no text. It is written as an escape, so that the record can be read everywhere.
    """
    plain = ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name) for name in classes]
    return {NAMES: plain} if plain else {}


def percent_of(metrics: Mapping[str, Any], exit_name: str) -> list[float | None]:
    """An exit's test accuracy by class; empty where it isn't known."""
    found: Mapping[str, list[float | None]] = metrics.get(BY_CLASS, {}).get("percent", {})
    return found.get(exit_name, [])


def worst_class(percent: Sequence[float | None]) -> int | None:
    """The label of the class with the lowest accuracy, of those that have test images; of equally low ones the first. None
    where nothing is known.
    """
    known = [(value, label) for label, value in enumerate(percent) if value is not None]
    return min(known)[1] if known else None


def spread(percent: Sequence[float | None]) -> float | None:
    """Standard deviation over the classes that have test images, in points. All classes are there, so it is over n, not n - 1."""
    known = [value for value in percent if value is not None]
    return statistics.pstdev(known) if known else None


def why_not(metrics: Mapping[str, Any]) -> str:
    """What of it in a record's metrics is not of this form; empty where all is."""
    found, names = metrics.get(BY_CLASS), metrics.get(NAMES)
    if names is not None and not (isinstance(names, list) and all(type(n) is str and n.isprintable() for n in names)):
        return f"its {NAMES!r} are not lines of text"
    if found is None:
        return ""
    images, percent = (found.get("images"), found.get("percent")) if isinstance(found, dict) else (None, None)
    if not (isinstance(images, list) and all(map(_is_count, images)) and isinstance(percent, dict)):
        return f"its {BY_CLASS!r} lacks a count of images per class, or the exits' accuracies"
    for values in percent.values():
        if not (isinstance(values, list) and len(values) == len(images) and all(map(_is_share, values, images))):
            return f"its {BY_CLASS!r} has no percentage for each of {len(images)} classes"
    return ""


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_share(value: Any, images: int) -> bool:
    return value is None if images == 0 else type(value) in (int, float) and 0 <= value <= 100
