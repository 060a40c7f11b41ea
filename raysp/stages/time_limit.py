"""Which blocks are gated so that a network meets a limit of predicted seconds, read from its finished parents before it is built.

Owns the limit as a part of a fine-tuning's identity, and what the masks of its parents leave of ReLUs for each choice of blocks.
Contract: the seconds are those that a report predicts for the final exit of the finished network, by the limit's calibrations.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raysp.engine.context import Parent
from raysp.latency.gated import GatedCosts
from raysp.latency.known import Calibrations, by_digest
from raysp.latency.links import Link, parse_link, seconds_over
from raysp.methods.gates_in_time import InTime, gates_in_time
from raysp.stages.experiment import Experiment
from raysp.stages.gates import Remembered, ranked_layers
from raysp.store.keys import Config, told

_seconds = Remembered[tuple[str, "TimeLimit"], dict[frozenset[str], float]](64)
"""What networks take, by the blocks that are gated. By the key of the measurement of losses, which says all that this depends on
but the link, and by a limit that stands for all those over one link."""


@dataclass(frozen=True, kw_only=True)
class TimeLimit(Config):
    """What a network's final exit may take under private inference.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    max_seconds: float
    """Predicted seconds of one image, above 0."""
    bits_per_s: float | None = None
    """Of the link between the parties, both directions together, above 0; None: both are on the calibrations' machine."""
    round_trip_s: float | None = None
    """Of the link, in seconds, at least 0; None likewise."""
    calibration: str
    """The digest of the calibrations that predict."""
    link: str | None = told(None)
    """As the user gave it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(max_seconds=(self.max_seconds > 0, "seconds above 0"))
        if (self.bits_per_s is None) != (self.round_trip_s is None):
            raise ValueError(f"bits_per_s is {self.bits_per_s} with round_trip_s {self.round_trip_s}; expected both, or neither")
        self.seconds(0.0, 0.0, 0.0)  # refuses what is no link

    def __str__(self) -> str:
        return f"at most {self.max_seconds:g} s" + (f" over {self.link}" if self.link else "")

    def seconds(self, time_s: float, num_bytes: float, round_trips: float) -> float:
        """What a network takes over the link.

        Args:
            time_s: that it takes where both parties are on the calibrations' machine.
            num_bytes, round_trips: of both parties.
        """
        over = None
        if self.bits_per_s is not None and self.round_trip_s is not None:
            over = Link(name="link", bits_per_s=self.bits_per_s, round_trip_s=self.round_trip_s)
        return seconds_over(over, time_s=time_s, num_bytes=num_bytes, round_trips=round_trips)


def time_limit(max_seconds: float, link: str | None, calibrations: Calibrations) -> TimeLimit:
    """The limit that a user means.

    Args:
        max_seconds: above 0.
        link: see `raysp.latency.links.parse_link`; None: both parties on the calibrations' machine.
        calibrations: what predicts.

    Raises:
        ValueError: no such link, or no such limit.
    """
    of_link: dict[str, Any] = {}
    if link is not None:
        over = parse_link(link)
        of_link = {"bits_per_s": over.bits_per_s, "round_trip_s": over.round_trip_s, "link": over.name}
    return TimeLimit(max_seconds=max_seconds, calibration=calibrations.digest, **of_link)


def gated_costs(experiment: Experiment, kernel_size: int, calibration: str) -> GatedCosts:
    """What a network takes with any of its blocks gated; kept in memory.

    Args:
        experiment: says which network.
        kernel_size: of the shallow branches.
        calibration: the digest of the calibrations that are to predict.

    Raises:
        ValueError: a layer can't be told.
        RuntimeError: this process has other calibrations.
    """
    if by_digest(calibration) is None:
        raise RuntimeError(
            "the calibrations of this machine's raysp are not those that the sweep was planned with; install the same raysp on "
            "all machines"
        )
    return _costs(replace(experiment, seed=0), kernel_size, calibration)


@functools.lru_cache(maxsize=64)
def _costs(experiment: Experiment, kernel_size: int, calibration: str) -> GatedCosts:
    calibrations = by_digest(calibration)
    assert calibrations
    return GatedCosts(experiment.outline(), kernel_size=kernel_size, calibrations=calibrations)


def gated_in_time(limit: TimeLimit, experiment: Experiment, parents: Mapping[str, Parent], budget: int | None) -> InTime:
    """The blocks that lose least among those choices that meet a limit; the fastest choice, if none does.

    Args:
        limit: what the network may take.
        experiment: says which network.
        parents: of a fine-tuning, by role; one is "gating", which says the size of shallow branches.
        budget: ReLUs to keep, where the mask comes from a ranking.

    Raises:
        RuntimeError: this process has other calibrations than the limit was planned with.
        DamagedFile: the ranking's weights can't be trusted.
    """
    gating = parents["gating"].record
    known = _seconds.get((gating["key"], replace(limit, max_seconds=1.0, link=None)), dict)
    costs = gated_costs(experiment, gating["config"]["kernel_size"], limit.calibration)
    kept = _KeptBeside(experiment, parents, budget)

    def seconds(gated: frozenset[str]) -> float:
        if gated not in known:
            found = costs.costs(gated, kept.by_layer(gated))
            known[gated] = limit.seconds(found.time_s, found.bytes, found.round_trips)
        return known[gated]

    losses = {block["block"]: block["divergence"] for block in gating["metrics"]["blocks"]}
    return gates_in_time(losses, seconds, limit.max_seconds)


class _KeptBeside:
    """What the ReLU layers keep when some blocks are gated: a ranking's budget goes to the others, another mask stays."""

    def __init__(self, experiment: Experiment, parents: Mapping[str, Parent], budget: int | None) -> None:
        self._inner, self._budget = experiment.inner_relus(), budget
        self._source = parents["mask" if budget is None else "ranking"]

    def by_layer(self, gated: frozenset[str]) -> dict[str, int]:
        """ReLUs by layer, all layers named."""
        layers = self._source.record["metrics"]["layers"]
        if self._budget is None:
            return {layer["layer"]: layer["kept"] for layer in layers}
        gone = {self._inner[block] for block in gated}
        without = [number for number, layer in enumerate(layers) if layer["layer"] in gone]
        counts = ranked_layers(self._source).counts(self._budget, without)
        return {layer["layer"]: count for layer, count in zip(layers, counts, strict=True)}
