"""Which blocks of a student are gated, read from its finished parents before it is built.

Owns two rules: by how dense the ReLU layers are that lie inside blocks (the paper's d_th), or by what each block would lose
(`raysp.stages.gating`). Refuses to build gates (`raysp.stages.student`). Contract: the densities are those that the student's own
layers will have.
"""

from collections.abc import Mapping
from typing import Any

from raysp.engine.context import Parent
from raysp.methods.ranking import RankedLayers, ranks_in
from raysp.stages.experiment import Experiment

KNOWN = 1024
"""Masks of rankings whose densities are kept in memory, and a sixty-fourth as many rankings."""

_ranked: dict[str, RankedLayers] = {}
"""By the ranking's key; reading them from its weights, and sorting them, takes a while."""
_densities: dict[tuple[str, int], list[float]] = {}
"""By the ranking's key and the budget; ranking all positions of a network takes a while."""


def gated_by_loss(parents: Mapping[str, Parent], number: int) -> list[str]:
    """So many blocks, those that would lose least, in forward order.

    Args:
        parents: of a fine-tuning, by role; one is "gating".
        number: from 1 to all of them.
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
    what = ranking.record["key"], budget
    if what not in _densities:
        make_room(_densities, KNOWN)
        layers = ranking.record["metrics"]["layers"]
        counts = ranked_layers(ranking).counts(budget)
        _densities[what] = [kept / layer["size"] for kept, layer in zip(counts, layers, strict=True) if layer["layer"] in inner]
    return _densities[what]


def ranked_layers(ranking: Parent) -> RankedLayers:
    """How a finished ranking shares budgets out; kept in memory. Raises DamagedFile."""
    key = ranking.record["key"]
    if key not in _ranked:
        make_room(_ranked, KNOWN // 64)
        layers = ranking.record["metrics"]["layers"]
        ranks = ranks_in(ranking.tensors(), [layer["layer"] for layer in layers])
        _ranked[key] = RankedLayers(ranks, [layer["size"] for layer in layers])
    return _ranked[key]


def make_room(known: dict[Any, Any], most: int) -> None:
    """Forget what was learned first."""
    while len(known) >= most:
        del known[next(iter(known))]
