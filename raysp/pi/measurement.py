"""Measuring one network under private inference: what is run, how often, and what comes out.

Owns the figures and their meaning. Contract: cold and warm are told apart; times are wall time of the
slower party unless they say whose; the result is compared with torch's, so that nothing wrong is timed.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from raysp.latency.graph import graph_of
from raysp.latency.protocols import MEANING, Protocol
from raysp.models.collapse import collapse, fold_batchnorm, steep_norms
from raysp.models.costs import count_costs
from raysp.models.network import Network
from raysp.pi import machine
from raysp.pi.engine import CLIENT, SERVER
from raysp.pi.files import FORMAT
from raysp.pi.session import LONGEST_S, PartyFault, Run, session
from raysp.pi.wire import LOOPBACK

ROLES = {"server": SERVER, "client": CLIENT}
"""The party with the weights, and the one with the image, and their ranks."""
LARGEST_ERROR, LARGEST_ERROR_RELATIVE = 0.01, 0.05
"""What a logit may be off: as it is, or as a share of the largest one, whichever is more. Sound networks need a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How a measurement is made.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    protocol: Protocol = "cheetah"
    warm: int = 3
    """Runs after the first, at least 1."""
    host: str = LOOPBACK
    """Address that both parties listen on."""
    ports: tuple[int, int] | None = None
    """Theirs; None takes free ones."""
    limit_s: float = 3600.0
    """Seconds after which a measurement is given up, more than 0 and at most a week."""

    def __post_init__(self) -> None:
        if self.protocol not in MEANING:
            raise ValueError(f"protocol {self.protocol!r}; expected one of {', '.join(MEANING)}")
        if self.warm < 1:
            raise ValueError(f"{self.warm} warm runs; expected at least 1")
        if not 0 < self.limit_s <= LONGEST_S:
            raise ValueError(f"a limit of {self.limit_s:g} s; expected more than 0, and at most {LONGEST_S:g} (a week)")
        if not self.host:
            raise ValueError("no host; expected an address of this machine")
        if self.ports is not None and (len(set(self.ports)) != 2 or not all(1 <= port < 65536 for port in self.ports)):
            raise ValueError(f"ports {self.ports}; expected two different ones from 1 to 65535")


def measure(
    model: Network,
    exit: str,  # noqa: A002 (the field's word)
    options: MeasureOptions,
    image_chw: Tensor | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Run a network on one image, once cold and then warm, with each party in a process of its own.

    Args:
        model: left as it is; it is collapsed to the exit, and its batch norms are folded.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.
        options: how.
        image_chw: normalised as the network wants it; None takes noise. Costs don't depend on it.
        tell: told when it has to wait for the machine.

    Returns:
        What a measurement's file holds, but for what its directory knows.

    Raises:
        ValueError: no such exit, or the engine doesn't speak the protocol or can't run the network.
        raysp.pi.session.PartyFault: a process died or failed, a port is in use, the time is over, or the result is wrong.
    """
    collapsed = collapse(model, exit)
    plain = fold_batchnorm(collapsed)
    image = torch.randn(plain.example_input()[0].shape, generator=torch.Generator().manual_seed(0))
    if image_chw is not None:
        image = image_chw
    with torch.inference_mode():
        wanted = plain(image[None]).logits[exit][0]
    with (
        machine.alone(tell),
        session(options.protocol, host=options.host, ports=options.ports, limit_s=options.limit_s) as parties,
    ):
        parties.load(parties.engine.compile(graph_of(plain), image))
        first = parties.run()
        watch = machine.Watch()
        later = [parties.run() for _ in range(options.warm)]
        others = watch.others_cores(sum(party.cpu_s for run, _ in later for party in run))
        runs, results = zip(first, *later, strict=True)
    error = max(float((torch.from_numpy(result.copy()) - wanted).abs().max()) for result in results)
    largest = float(wanted.abs().max())
    if not error <= max(LARGEST_ERROR, LARGEST_ERROR_RELATIVE * largest):
        steep = steep_norms(collapsed)
        raise PartyFault(
            f"the result is off by {error:.2g} where torch's largest logit is {largest:.2g}: this network's values don't fit the "
            f"engine's fixed point{f' ({steep})' if steep else ''}, so that what was timed is no inference; nothing was kept"
        )
    cold, warm = runs[0], runs[1:]
    return {
        "format": FORMAT,
        "exit": exit,
        "protocol": options.protocol,
        "meaning": MEANING[options.protocol],
        **count_costs(model, exit).totals(),
        **summary(warm),
        "others_cores": others,
        "cold": {"time_s": wall_s(cold), "bytes": sent_bytes(cold)},
        "parties": {role: _party(cold[rank], [run[rank] for run in warm]) for role, rank in ROLES.items()},
        "operations": operations(warm),
        "max_error": error,
        "max_error_relative": error / max(largest, torch.finfo(torch.float32).tiny),
        "same_class": all(int(result.argmax()) == int(wanted.argmax()) for result in results),
        "image": "noise" if image_chw is None else "given",
        "versions": machine.versions(parties.engine.packages),
        "machine": machine.describe(),
        "listened_on": options.host,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def wall_s(run: Sequence[Run]) -> float:
    """Wall time of a run: the slower party's."""
    return max(party.wall_s for party in run)


def sent_bytes(run: Sequence[Run]) -> int:
    """Bytes that both parties have sent."""
    return sum(party.statistics.sent_bytes for party in run)


def summary(warm: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """Time, bytes and messages of warm runs.

    The median of the times, and their range. The mean of the bytes: under CHEETAH the stock of correlated randomness is renewed
    in some runs and not in others (266,259 bytes each time).
    """
    times, traffic = [wall_s(run) for run in warm], [sent_bytes(run) for run in warm]
    messages = [sum(party.statistics.messages for party in run) for run in warm]
    return {
        "time_s": statistics.median(times),
        "time_s_range": [min(times), max(times)],
        "bytes": statistics.mean(traffic),
        "bytes_runs": traffic,
        "messages": statistics.mean(messages),
        "warm_runs": len(times),
    }


def operations(warm: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """A row per kind of operation: mean over the warm runs, time of the slower party, traffic and messages of both."""
    kinds: dict[str, list[list[Any]]] = {}
    for run in warm:
        for name in {o.operation for party in run for o in party.statistics.operations}:
            both = [o for party in run for o in party.statistics.operations if o.operation == name]
            kinds.setdefault(name, []).append(both)
    rows = [
        {
            "operation": name,
            "times": both[0][0].times,
            "time_s": statistics.mean(max(o.wall_s for o in run) for run in both),
            "bytes": statistics.mean(sum(o.sent_bytes for o in run) for run in both),
            "messages": statistics.mean(sum(o.messages for o in run) for run in both),
        }
        for name, both in kinds.items()
    ]
    return sorted(rows, key=lambda row: (-row["bytes"], -row["time_s"]))


def _party(cold: Run, warm: Sequence[Run]) -> dict[str, Any]:
    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    return {
        "cold": {"wall_s": cold.wall_s, "cpu_s": cold.cpu_s, "bytes": cold.statistics.sent_bytes},
        "wall_s": spread([run.wall_s for run in warm]),
        "cpu_s": spread([run.cpu_s for run in warm]),
        "bytes": statistics.mean(run.statistics.sent_bytes for run in warm),
        "messages": statistics.mean(run.statistics.messages for run in warm),
        "peak_memory_bytes": max(run.peak_bytes for run in warm),
    }
