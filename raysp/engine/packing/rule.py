"""How many stages belong on one GPU: the rule, and the words in which it is told.

Refuses to measure (`raysp.engine.packing.crowd`) and to ask a cluster for anything (`raysp.engine.ray.shares`), so that any
machine can be thought of. Contract: more stages are put on a GPU only as long as each doubling makes all of them together faster
by a tenth.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raysp.store.stage import Stage

WORTH = 1.1
"""Times as fast as the next smaller number must be to be taken."""
FILLED = 0.9
"""Share of a GPU's free memory that stages may take by what was measured; their need differs a little."""
MOST = 32
"""Stages on a GPU."""


@dataclass(frozen=True)
class Bound:
    """Stages that may be put on one GPU, whatever they gain."""

    most: int
    because: str
    """Why no more."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What stages on one GPU make together."""

    rates: Mapping[int, float]
    """Epochs a second by the number of stages; empty where not even one could be measured."""
    memory: int | None = None
    """Bytes of the GPU that one takes; None where nobody knows."""
    room: int | None = None
    """Bytes that are free while none runs."""
    failed: str = ""
    """Why no larger number was measured, where something went wrong."""


def at_once(stages: Iterable[Stage]) -> int:
    """How many of these stages, which come ancestors first, are ready at the same time, about."""
    depths: dict[str, int] = {}
    for stage in stages:
        depths[stage.key] = 1 + max((depths.get(parent.key, 0) for parent in stage.parents.values()), default=0)
    return max(Counter(depths.values()).values(), default=0)


def bound(*, cores: float, threads: int, gpus: int, at_once: int) -> Bound:
    """Most stages on one GPU before anything is measured.

    Args:
        cores: CPU cores for each GPU.
        threads: CPU threads of a stage.
        gpus: of the whole cluster.
        at_once: stages that run at the same time, at most.
    """
    by_cores = int(cores) // threads
    by_stages = -(-at_once // gpus)
    return min(
        Bound(max(by_cores, 1), f"{cores:.3g} CPU cores for each GPU, and {threads} for each stage"),
        Bound(max(by_stages, 1), "no more are ready at the same time"),
        Bound(MOST, "more aren't tried"),
        key=lambda each: each.most,
    )


def numbers(most: int) -> list[int]:
    """Numbers of stages to measure: powers of two, and the most."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def fitting(memory: int | None, room: int | None) -> int:
    """How many stages a GPU's memory holds."""
    return MOST if memory is None or room is None else max(int(FILLED * room / max(memory, 1)), 1)


def kept(rates: Mapping[int, float]) -> int:
    """The number of stages to put on a GPU; one where nothing is known."""
    best = 1
    for number in sorted(rates):
        if number > 1 and rates[number] < WORTH * rates[best]:
            break
        best = number
    return best


def share(number: int) -> float:
    """A GPU's share for each of so many stages, so that Ray, which rounds to four places, finds room for all of them."""
    return 1e4 // number / 1e4


def told(measured: Measured, limit: Bound, mps: str) -> str:
    """One line: what is done, and why no more.

    Args:
        measured: what was found.
        limit: up to which there was measured.
        mps: what became of MPS.
    """
    number = kept(measured.rates)
    reason = _why_no_more(number, measured, limit)
    if number == 1:
        return f"GPUs: one stage on each: {reason}"
    times = measured.rates[number] / measured.rates[1]
    return f"GPUs: {number} stages on each, {times:.1f} times as fast as one ({reason}), {mps}"


def _why_no_more(number: int, measured: Measured, limit: Bound) -> str:
    more = min((tried for tried in measured.rates if tried > number), default=None)
    if more is not None:
        gain = 100 * (measured.rates[more] / measured.rates[number] - 1)
        return f"{more} gain {gain:.0f} % more" if gain >= 1 else f"{more} gain nothing more"
    if measured.failed:
        return measured.failed
    held = fitting(measured.memory, measured.room)
    if held < limit.most and measured.memory and measured.room:
        return f"no room for {held + 1}: one takes {measured.memory / 1e9:.3g} of {measured.room / 1e9:.3g} GB"
    return limit.because
