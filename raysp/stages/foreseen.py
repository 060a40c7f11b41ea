"""What a limit of seconds will come to before its network's mask is known, from the network's shape and the budget alone.

Owns what is known of a mask before it is found. Contract: what comes of a limit lies between the two seconds that are told, by
the limit's calibrations; of a network of more than `EXACT` blocks, of which not every choice can be looked at, those blocks that
save time by themselves stand for its fastest choice.
"""

from dataclasses import dataclass

from raysp.methods.gates_in_time import EXACT, choices
from raysp.stages.finetune import FinetuneConfig
from raysp.stages.mask import MaskConfig
from raysp.stages.ranking import RankingConfig
from raysp.stages.time_limit import TimeLimit, gated_costs


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What is known of a fine-tuning under a limit."""

    least_s: float
    """Predicted seconds of its final exit, at least."""
    most_s: float
    """At most."""
    is_met: bool | None
    """Whether they meet the limit; None where that depends on the mask."""


def foreseen(config: FinetuneConfig, limit: TimeLimit, found_by: MaskConfig | RankingConfig) -> Foreseen:
    """What a fine-tuning under a limit will come to, as far as that can be said.

    Args:
        config: the fine-tuning's.
        limit: its limit.
        found_by: the configuration of the stage that finds its mask.

    Raises:
        RuntimeError: this process has other calibrations than the limit was planned with.
    """
    costs = gated_costs(config.experiment, config.kernel_size, limit.calibration)
    kept = _Kept(config, found_by)

    def seconds(gated: frozenset[str]) -> tuple[float, float]:
        least, most = (limit.seconds(c.time_s, c.bytes, c.round_trips) for c in costs.bounds(gated, kept.beside(gated)))
        return least, most

    as_it_is = seconds(frozenset())
    if len(costs.blocks) <= EXACT:
        found = [seconds(chosen) for chosen in choices(costs.blocks)]
    else:
        helping = frozenset(name for name in costs.blocks if seconds(frozenset({name})) < as_it_is)
        found = [as_it_is, seconds(helping)]
    least, surely = min(low for low, _ in found), min(high for _, high in found)
    if surely <= limit.max_seconds:
        return Foreseen(least_s=least, most_s=min(limit.max_seconds, as_it_is[1]), is_met=True)
    return Foreseen(least_s=least, most_s=surely, is_met=False if least > limit.max_seconds else None)


class _Kept:
    """How many ReLUs a mask will keep beside gated blocks: a ranking's budget goes to the other layers, another mask stays."""

    def __init__(self, config: FinetuneConfig, found_by: MaskConfig | RankingConfig) -> None:
        layers = config.experiment.outline().relu_layers()
        sizes = {layer.name: layer.relu.size for layer in layers}
        self._inside = {block: sizes[name] for block, name in config.experiment.inner_relus().items()}
        self._stays = isinstance(found_by, MaskConfig)
        self._budget = found_by.budget if isinstance(found_by, MaskConfig) else config.budget or 0
        # Whole channels are kept as far as they fit.
        by_channel = found_by.granularity == "channel"
        self._missing = max(layer.relu.shape[1] * layer.relu.shape[2] for layer in layers) - 1 if by_channel else 0

    def beside(self, gated: frozenset[str]) -> tuple[int, int]:
        """At least, and at most."""
        gone = sum(self._inside[block] for block in gated) if self._stays else 0
        return max(0, self._budget - self._missing - gone), self._budget
