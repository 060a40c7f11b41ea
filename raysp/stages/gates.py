"""Which blocks of a student are gated, read from its finished parents before it is built.

Owns the rules: by how dense the ReLU layers are that lie inside blocks (the paper's d_th), or by what each block would lose
(`raysp.stages.gating`), a number of blocks or as many as lose no more than a limit in all. Refuses to build gates
(`raysp.stages.student`). Contract: the densities are those that the student's own layers will have.
"""

from collections.abc import Callable, Hashable, Mapping
from itertools import accumulate
from typing import Generic, TypeVar

from raysp.engine.context import Parent
from raysp.methods.ranking import RankedLayers, ranks_in
from raysp.stages.experiment import Experiment

What = TypeVar("What", bound=Hashable)
Found = TypeVar("Found")


class Remembered(Generic[What, Found]):
    """What takes a while to find out of finished stages, kept in memory by what it follows from.

    Args:
        most: to be kept; what was found first goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[What, Found] = {}

    def get(self, what: What, find: Callable[[], Found]) -> Found:
        """What follows from `what`; asked of `find` where it isn't known."""
        if what not in self._known:
            found = find()
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[what] = found
        return self._known[what]


_ranked = Remembered[str, RankedLayers](16)
"""By the ranking's key: they are read from its weights, and sorted."""
_densities = Remembered[tuple[str, int], list[float]](1024)
"""By the ranking's key and the budget."""


def number_within(parents: Mapping[str, Parent], most: float) -> int:
    """How many blocks lose at most so much in all, those that lose least first.

    What several lose is taken for the sum of what each loses alone, as in `raysp.methods.gates_in_time`.

    Args:
        parents: of a fine-tuning, by role; one is "gating".
        most: nats.
    """
    losses = sorted(block["divergence"] for block in parents["gating"].record["metrics"]["blocks"])
    return sum(total <= most for total in accumulate(losses))


def gated_by_loss(parents: Mapping[str, Parent], number: int) -> list[str]:
    """So many blocks, those that would lose least, in forward order.

    Args:
        parents: of a fine-tuning, by role; one is "gating".
        number: from none to all of them.
    """
    blocks = parents["gating"].record["metrics"]["blocks"]
    least = sorted(blocks, key=lambda block: block["divergence"])[:number]
    return [block["block"] for block in blocks if block in least]


def inner_densities(experiment: Experiment, parents: Mapping[str, Parent], budget: int | None) -> list[float]:
    """The share of its positions that each ReLU keeps that lies inside a block which can be gated, in forward order.

    Args:
        experiment: says which network.
        parents: of a fine-tuning, by role.
        budget: ReLUs to keep, where the mask comes from a ranking.

    Raises:
        DamagedFile: the ranking's weights can't be trusted.
    """
    inner = set(experiment.inner_relus().values())
    if budget is None:
        layers = parents["mask"].record["metrics"]["layers"]
        return [layer["kept"] / layer["size"] for layer in layers if layer["layer"] in inner]
    ranking = parents["ranking"]

    def found() -> list[float]:
        layers = ranking.record["metrics"]["layers"]
        counts = ranked_layers(ranking).counts(budget)
        return [kept / layer["size"] for kept, layer in zip(counts, layers, strict=True) if layer["layer"] in inner]

    return _densities.get((ranking.record["key"], budget), found)


def ranked_layers(ranking: Parent) -> RankedLayers:
    """How a finished ranking shares budgets out; kept in memory. Raises DamagedFile."""

    def found() -> RankedLayers:
        layers = ranking.record["metrics"]["layers"]
        ranks = ranks_in(ranking.tensors(), [layer["layer"] for layer in layers])
        return RankedLayers(ranks, [layer["size"] for layer in layers])

    return _ranked.get(ranking.record["key"], found)
