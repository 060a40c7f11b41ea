"""A network between the two parties: how it is written, and what it adds to a run's time.

Owns the words (`lan`, `wan`, `100mbit,20ms`) and the model. Contract: what is said of a link is modelled, not measured.
"""

import math
import re
from dataclasses import dataclass

from raysp.models.costs import WAN_BITS_PER_S, WAN_ROUND_TRIP_S

BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER = r"(\d+\.?\d*|\.\d+)"
_FORM = re.compile(rf"{_NUMBER}({'|'.join(BITS)}),{_NUMBER}({'|'.join(SECONDS)})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A network between the parties.

    Raises:
        ValueError: no such network.
    """

    name: str
    """As a user gives it."""
    bits_per_s: float
    """Of both directions together, more than 0."""
    round_trip_s: float
    """At least 0."""

    def __post_init__(self) -> None:
        if not (0 < self.bits_per_s < math.inf and 0 <= self.round_trip_s < math.inf):
            raise ValueError(
                f"{self.bits_per_s:g} bit/s and a round trip of {self.round_trip_s:g} s; expected more than 0, and at least 0"
            )

    def modelled_s(self, *, time_s: float, num_bytes: float, round_trips: float) -> float:
        """Time over this link, modelled, of what took `time_s` on one machine: traffic, and a wait for each round trip, on top.

        An upper bound: engines send while they compute, and not every message is waited for.
        """
        return time_s + 8 * num_bytes / self.bits_per_s + round_trips * self.round_trip_s


def seconds_over(link: Link | None, *, time_s: float, num_bytes: float, round_trips: float) -> float:
    """The same over any link; None has both parties on the machine where it took `time_s`."""
    return time_s if link is None else link.modelled_s(time_s=time_s, num_bytes=num_bytes, round_trips=round_trips)


LAN = Link(name="lan", bits_per_s=3e9, round_trip_s=0.3e-3)
"""The local network of Cheetah (USENIX Security 2022)."""
WAN = Link(name="wan", bits_per_s=WAN_BITS_PER_S, round_trip_s=WAN_ROUND_TRIP_S)
"""Its wide-area network."""
KNOWN = {link.name: link for link in (LAN, WAN)}


def parse_link(text: str) -> Link:
    """Read a link: `lan`, `wan`, or BANDWIDTH,ROUND_TRIP such as `100mbit,20ms` (kbit, mbit, gbit; us, ms, s).

    Raises:
        ValueError: it is none.
    """
    name = "".join(text.split()).lower()
    if name in KNOWN:
        return KNOWN[name]
    found = _FORM.fullmatch(name)
    if found is None or float(found[1]) == 0:
        raise ValueError(
            f"link {text!r:.80}; expected lan, wan, or a bandwidth above 0 and a round trip, such as 100mbit,20ms "
            f"({', '.join(BITS)}; {', '.join(SECONDS)})"
        )
    return Link(name=name, bits_per_s=float(found[1]) * BITS[found[2]], round_trip_s=float(found[3]) * SECONDS[found[4]])
