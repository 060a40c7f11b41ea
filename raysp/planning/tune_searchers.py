"""Ray Tune's search algorithms as makers of proposals.

Owns what is known of Ray Tune's algorithms. Refuses to run anything; Ray need not run. Contract: see
`raysp.planning.proposals.Algorithm`.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.search import SEARCH_ALG_IMPORT, Searcher

from raysp.planning.proposals import Between, Search, Values

ALGORITHMS = tuple(sorted(set(SEARCH_ALG_IMPORT) - {"random", "variant_generator", "bohb", "zoopt"}))
"""Names of those that learn from what they are told. BOHB needs a scheduler of its own, ZOOpt a number of trials beforehand."""

SEVERAL_OBJECTIVES = ("optuna",)
"""Those that take several objectives; the others are told the score alone."""


class TuneAlgorithm:
    """One of Ray Tune's search algorithms.

    Args:
        search: names it, and the axes.
        earlier: proposals that are to be made first.

    Raises:
        ValueError: there is no such algorithm, its package isn't installed, or it can't search these axes.
    """

    def __init__(self, search: Search, earlier: Sequence[Values]) -> None:
        if search.algorithm not in ALGORITHMS:
            raise ValueError(f"search {search.algorithm!r}; expected grid, random, or one of {', '.join(ALGORITHMS)}")
        self._search = search
        several = search.algorithm in SEVERAL_OBJECTIVES
        costs = search.weighing.costs
        metric: Any = ["val_accuracy", *costs] if several else "score"
        mode: Any = ["max"] + ["min"] * len(costs) if several else "max"
        options: dict[str, Any] = {"metric": metric, "mode": mode, "seed": len(earlier), "random_state_seed": len(earlier)}
        # Of a choice an algorithm sees the number, so that any value can be one.
        points = [
            {
                name: value if isinstance(axis := search.axes[name], Between) else axis.index(value)
                for name, value in known.items()
            }
            for known in earlier
        ]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._searcher: Searcher = tune.search.create_searcher(
                    search.algorithm, **options, **({"points_to_evaluate": points} if points else {})
                )
                logging.getLogger("optuna").setLevel(logging.WARNING)  # says that it began
                self._searcher.set_search_properties(None if several else metric, None if several else mode, _space(search))
        except (ImportError, AssertionError, TypeError, ValueError) as error:
            said = " ".join(str(error).split()) or "its package is not installed"
            raise ValueError(f"search {search.algorithm!r} can't be used: {said:.300}") from error

    def ask(self, number: int) -> Values | None:
        """See `raysp.planning.proposals.Algorithm`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._searcher.suggest(f"{number:08d}")
        if found is None or found == Searcher.FINISHED:
            return None
        return {
            name: axis.rounded(found[name]) if isinstance(axis, Between) else axis[int(found[name])]
            for name, axis in self._search.axes.items()
        }

    def tell(self, number: int, objectives: Mapping[str, float] | None) -> None:
        """See `raysp.planning.proposals.Algorithm`."""
        result = None if objectives is None else {**objectives, "training_iteration": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._searcher.on_trial_complete(f"{number:08d}", result=result, error=objectives is None)


def _space(search: Search) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for name, axis in search.axes.items():
        if isinstance(axis, Between):
            space[name] = (tune.loguniform if axis.is_log else tune.uniform)(axis.lowest, axis.highest)
        else:
            space[name] = tune.choice(list(range(len(axis))))
    return space
