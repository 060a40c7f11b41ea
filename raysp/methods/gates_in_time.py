"""Which blocks are gated so that a network meets a limit of seconds, and loses least (ours).

Owns the choice. Refuses to measure losses (`raysp.methods.gate_choice`) and to predict seconds (`raysp.latency`). Contract: what
several blocks lose is taken for the sum of what each loses alone; what they save is asked for every choice, since what one saves
may depend on the others.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

EXACT = 10
"""Blocks of which every subset is tried; of more, one after the other is added."""

Seconds = Callable[[frozenset[str]], float]
"""What the network takes with these blocks gated."""


@dataclass(frozen=True, kw_only=True)
class InTime:
    """A choice of blocks."""

    blocks: tuple[str, ...]
    """Those that are gated, in the order in which they were given."""
    seconds: float
    """That the network takes."""
    divergence: float
    """The sum of the blocks' losses."""
    meets: bool
    """Whether the seconds meet the limit; where no choice does, this is the fastest one."""


def choices(blocks: Sequence[str]) -> Iterator[frozenset[str]]:
    """Every choice of some blocks, those of fewest blocks first."""
    return (frozenset(some) for number in range(len(blocks) + 1) for some in combinations(blocks, number))


def gates_in_time(losses: Mapping[str, float], seconds: Seconds, limit: float) -> InTime:
    """The blocks that lose least among those choices with which a network takes at most so long.

    Of up to `EXACT` blocks it is the best choice. Of more it is found step by step: the block is added that loses least for the
    seconds that it saves beside those before it, until the limit is met; then what proves needless is taken back.

    Args:
        losses: what gating each block, alone, loses; at least 0.
        seconds: see `Seconds`.
        limit: at most so many.
    """
    order = list(losses)

    def judged(chosen: frozenset[str]) -> InTime:
        blocks, taken = tuple(name for name in order if name in chosen), seconds(chosen)
        return InTime(blocks=blocks, seconds=taken, divergence=math.fsum(losses[name] for name in blocks), meets=taken <= limit)

    return _best(order, judged) if len(order) <= EXACT else _step_by_step(losses, judged)


def _best(order: list[str], judged: Callable[[frozenset[str]], InTime]) -> InTime:
    every = [judged(chosen) for chosen in choices(order)]
    # Of equal ones the one with the fewest blocks, which come first.
    if meeting := [found for found in every if found.meets]:
        return min(meeting, key=lambda found: found.divergence)
    return min(every, key=lambda found: (found.seconds, found.divergence))


def _step_by_step(losses: Mapping[str, float], judged: Callable[[frozenset[str]], InTime]) -> InTime:
    now = judged(frozenset())
    while not now.meets:
        tried = {name: judged(frozenset({*now.blocks, name})) for name in losses if name not in now.blocks}
        saved = {name: now.seconds - found.seconds for name, found in tried.items() if found.seconds < now.seconds}
        if not saved:
            return now
        now = tried[min(saved, key=lambda name: losses[name] / saved[name])]
    for name in sorted(now.blocks, key=lambda name: -losses[name]):
        without = judged(frozenset(now.blocks) - {name})
        now = without if without.meets else now
    return now
