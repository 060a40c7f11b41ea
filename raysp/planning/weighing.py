"""What a sweep weighs its models by while it runs: accuracy, and the costs that are to be small.

Owns the names of those costs, and how they are told of a network in training and of a finished record. Refuses to choose by them
(`raysp.planning.halving`, `raysp.planning.proposals`). Contract: what is predicted here of a finished model is what a report
predicts of it by the same calibrations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysp.latency.known import Calibrations, packaged
from raysp.latency.links import LAN, WAN, Link, seconds_over
from raysp.latency.prediction import predict
from raysp.latency.recorded import Outline, Record, predict_records
from raysp.models.costs import count_costs
from raysp.models.network import Network
from raysp.store.figures import COSTS, PREDICTED, Rows

LINKS: dict[str, Link | None] = {"pred_time_s": None, "pred_lan_s": LAN, "pred_wan_s": WAN}
"""Columns of seconds, and the network between the parties that they are about; None is the calibrations' own machine."""
OF_LINK = "pred_link_s"
"""Seconds over the link that a user names, where it is none of these."""
COUNTED = {"pred_bytes": "bytes", "pred_round_trips": "round_trips"}
WEIGHABLE = (*COSTS, *LINKS, OF_LINK, *COUNTED)
"""What a sweep can weigh: costs that are known before a model is measured, by the columns of its results."""


def seconds_column(link: Link | None) -> str:
    """The column of seconds over a link; None is the calibrations' own machine."""
    return next((name for name, known in LINKS.items() if known == link), OF_LINK)


def over_link(costs: Sequence[str], link: Link) -> tuple[str, ...]:
    """Costs with the link's own column in place of `OF_LINK`, if it has one; each once."""
    return tuple(dict.fromkeys(seconds_column(link) if name == OF_LINK else name for name in costs))


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """What is to be small.

    Raises:
        ValueError: a cost is unknown or named twice, there is none, or seconds over a link lack the link.
    """

    costs: tuple[str, ...] = COSTS
    """Of `WEIGHABLE`, each once."""
    calibrations: Calibrations | None = None
    """What is predicted by; None takes those of the package."""
    link: Link | None = None
    """What `OF_LINK` is about."""

    def __post_init__(self) -> None:
        for name in self.costs:
            if name not in WEIGHABLE:
                raise ValueError(f"cost {name!r:.40}; expected of: {', '.join(WEIGHABLE)}")
        if not self.costs or len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs {' '.join(self.costs) or '(none)'}; expected one or more, each once")
        if OF_LINK in self.costs and self.link is None:
            raise ValueError(f"cost {OF_LINK} without a link; expected one, such as 100mbit,20ms")

    @property
    def predicts(self) -> bool:
        """Whether any of the costs is predicted."""
        return not set(self.costs) <= set(COSTS)

    @property
    def by(self) -> Calibrations:
        """What is predicted by."""
        return self.calibrations or packaged()

    @property
    def identity(self) -> dict[str, Any]:
        """What tells one weighing from another."""
        link = (self.link.bits_per_s, self.link.round_trip_s) if self.link and OF_LINK in self.costs else None
        return {"costs": self.costs, "link": link, "calibration": self.by.digest if self.predicts else None}

    def of_network(self, network: Network) -> dict[str, dict[str, Any]]:
        """What every exit of a network costs: ReLUs, MACs, depth, and what is predicted, if that is asked for.

        Args:
            network: as it would be deployed; left as it is, nothing is computed.

        Raises:
            ValueError: a layer can't be told.
        """
        found: dict[str, dict[str, Any]] = {}
        for name in network.exit_names:
            found[name] = dict(count_costs(network, name).totals())
            if self.predicts:
                told = predict(network, name, self.by, links=())
                found[name][PREDICTED] = self._kept(told.time_s, told.bytes, told.round_trips)
        return found

    def of_record(self, record: Record, outline: Outline) -> list[dict[str, Any]]:
        """A finished stage's rows, with what is predicted, if that is asked for.

        Args:
            record: with rows.
            outline: how networks are found that aren't built in.

        Raises:
            ValueError: an exit can't be told.
        """
        if not self.predicts:
            return list(record["rows"])
        found = predict_records([record], self.by, outline)
        rows = []
        for row in record["rows"]:
            told = found.rows.get((record["key"], row["exit"]))
            if told is None:
                why = (
                    "; ".join(f"{what}: {reason}" for what, reason in found.untold.items()) or "it doesn't say its layers' costs"
                )
                raise ValueError(
                    f"{record['stage']} {record['key'][:12]}: its {', '.join(self.costs)} can't be predicted ({why})"
                )
            kept = self._kept(told.costs.time_s, told.costs.bytes, told.costs.round_trips)
            rows.append({**row, PREDICTED: kept})
        return rows

    def _kept(self, time_s: float, num_bytes: float, round_trips: float) -> dict[str, Any]:
        return {"time_s": time_s, "bytes": num_bytes, "round_trips": round_trips, "calibration": self.by.digest}

    def knows(self, rows: Rows) -> bool:
        """Whether rows that were kept say all that is weighed, by the same calibrations."""
        return not self.predicts or all(row.get(PREDICTED, {}).get("calibration") == self.by.digest for row in rows)

    def values(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The costs of one of the rows that `knows` holds of, in order."""
        return {name: self._value(row, name) for name in self.costs}

    def _value(self, row: Mapping[str, Any], name: str) -> float:
        if name in COSTS:
            return float(row[name])
        told = row[PREDICTED]
        if name in COUNTED:
            return float(told[COUNTED[name]])
        link = self.link if name == OF_LINK else LINKS[name]
        return seconds_over(link, time_s=float(told["time_s"]), num_bytes=told["bytes"], round_trips=told["round_trips"])
