"""From flags to what a sweep weighs its models by.

Owns which flags say so. What can be weighed is `raysp.planning.weighing`'s.
"""

from collections.abc import Sequence

from raysp.latency.known import read_calibrations
from raysp.latency.links import parse_link
from raysp.planning.weighing import OF_LINK, Weighing, over_link
from raysp.store.location import locate
from sweeps.flags import RunFlags


def weighing_of(flags: RunFlags, links: Sequence[str] | None) -> Weighing:
    """What the flags ask.

    Args:
        flags: as given.
        links: networks between the parties that were given; None where a sweep takes none.

    Raises:
        ValueError: an unknown cost, a file that is no calibration, or seconds over no link, or over one of several.
    """
    costs, link = flags.costs, None
    if OF_LINK in costs:
        if links is None:
            raise ValueError(f"--costs {OF_LINK}, and this sweep takes no --link; expected pred_lan_s, pred_wan_s or pred_time_s")
        if len(links) != 1:
            said = " ".join(links) or "none"
            raise ValueError(f"--costs {OF_LINK} with --link {said}; expected one link, such as 100mbit,20ms")
        link = parse_link(links[0])
        costs = over_link(costs, link)
    own = read_calibrations([locate(path) for path in flags.calibration]) if flags.calibration else None
    return Weighing(costs=costs, calibrations=own, link=link if OF_LINK in costs else None)
