"""From the flags of a search to what it searches.

Owns which axes may lie between two values, random draws, and the checks of a search's flags.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raysp.methods.choices import Choice
from raysp.planning.proposals import Axis, Between, Search, Values
from raysp.planning.weighing import Weighing
from raysp.stages.chain import ChainBuilder
from raysp.stages.predictable import largest
from raysp.store.stage import Stage

FIELD_OF = {"budgets": "budget", "d-th": "d_th", "gate-loss": "gate_loss", "max-seconds": "max_seconds", "beta": "beta"}
"""Fields of `Choice` by the names that `--between` takes."""

MOST_TRIALS = 100_000
"""More is taken for a slip."""

LOGARITHMIC = ("budget", "beta")
FINE = ("gate_loss", "max_seconds")


def read_search(
    name: str,
    trials: int | None,
    between: Sequence[str],
    values: Mapping[str, tuple[Any, ...]],
    builder: ChainBuilder,
    weighing: Weighing,
) -> Search | None:
    """Check the flags of a search; what is searched, if one of Ray Tune's algorithms is to search.

    Args:
        name: `grid`, `random`, or an algorithm's.
        trials: how many configurations.
        between: see `FIELD_OF`.
        values: of every axis, by the field of `Choice`.
        builder: makes the stages.
        weighing: what proposals are judged by.

    Raises:
        ValueError: the flags don't go together.
    """
    if name == "grid":
        if trials is not None or between:
            raise ValueError(
                "--trials or --between with --search grid, which trains all; expected --search random, or a searcher"
            )
        return None
    if name != "random":
        from raysp.planning.tune_searchers import ALGORITHMS  # takes seconds to import

        if name not in ALGORITHMS:
            raise ValueError(f"search {name!r}; expected grid, random, or one of Ray Tune's searchers: {', '.join(ALGORITHMS)}")
    if trials is None or not 1 <= trials <= MOST_TRIALS:
        raise ValueError(
            f"--search {name} with {'no' if trials is None else trials} --trials; expected how many configurations, at least 1 "
            f"and at most {MOST_TRIALS}"
        )
    axes = axes_of(values, between)
    if not axes:
        raise ValueError(f"--search {name} with one value on every axis; expected several on one, or --between")
    if name == "random":
        return None
    fixed = {field: held[0] for field, held in values.items() if field != "seed" and field not in axes}

    def build(proposal: Values) -> list[Stage]:
        choice = Choice(**{**fixed, **proposal})
        return [builder.chain(replace(choice, seed=seed)) for seed in values["seed"]]

    # What can't be built is found before anything trains: each value of each axis, beside the others' first.
    first: dict[str, Any] = {field: axis.highest if isinstance(axis, Between) else axis[0] for field, axis in axes.items()}
    for field, axis in axes.items():
        for value in (axis.lowest, axis.highest) if isinstance(axis, Between) else axis:
            build(first | {field: value})
    return Search(
        algorithm=name,
        axes=axes,
        trials=trials,
        fixed=fixed,
        build=build,
        largest=largest(builder.network, weighing),
        weighing=weighing,
    )


def axes_of(values: Mapping[str, tuple[Any, ...]], between: Sequence[str]) -> dict[str, Axis]:
    """What is searched: the axes of several values, and those between two. Raises ValueError."""
    axes: dict[str, Axis] = {}
    continuous = {FIELD_OF[name]: name for name in between}
    for field, flag in continuous.items():
        if field not in values:
            raise ValueError(f"--between {flag} without --{flag}; expected two numbers there")
    for field, held in values.items():
        if field in continuous:
            numbers = [value for value in held if value is not None]
            if len(numbers) < max(2, len(held)):
                raise ValueError(
                    f"--between {continuous[field]} with the values {held}; expected two numbers or more, and no none"
                )
            if field == "budget" and min(numbers) < 1 <= max(numbers):
                raise ValueError(f"--between budgets {held}; expected units or shares, not both")
            log, fine = field in LOGARITHMIC, field in FINE or None
            axes[field] = Between(lowest=min(numbers), highest=max(numbers), is_log=log, is_fine=fine)
        elif field != "seed" and len(set(held)) > 1:
            axes[field] = tuple(dict.fromkeys(held))
    return axes


def draw(values: Mapping[str, tuple[Any, ...]], between: Sequence[str], trials: int) -> list[dict[str, Any]]:
    """So many random combinations, without the seed; always the same for the same values, and more trials only add some."""
    axes = axes_of(values, between)
    fixed = {field: held[0] for field, held in values.items() if field != "seed" and field not in axes}
    generator = random.Random(0)  # noqa: S311 (not for secrets)
    drawn: dict[tuple[Any, ...], dict[str, Any]] = {}
    grid = math.prod(len(axis) if not isinstance(axis, Between) else MOST_TRIALS for axis in axes.values())
    most = min(trials, grid)
    for _ in range(100 * most):  # between two values there may be few
        if len(drawn) == most:
            break
        one = {
            field: axis.at(generator.random()) if isinstance(axis, Between) else generator.choice(axis)
            for field, axis in axes.items()
        }
        drawn.setdefault(tuple(one.values()), fixed | one)
    return list(drawn.values())
