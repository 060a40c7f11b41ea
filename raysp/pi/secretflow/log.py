"""What SPU says of a run, from its log: traffic, messages and time, in all and per operation.

It gives its statistics nowhere else. Contract: a log without them raises, rather than count as nothing.
"""

import re

from raysp.pi.engine import OperationStatistics, Statistics

_OPERATION = re.compile(
    r"- pphlo\.(?P<operation>\w+), executed (?P<times>\d+) times, duration (?P<wall_s>[-+.\de]+)s, "
    r"send bytes (?P<sent_bytes>\d+) recv bytes \d+, send actions (?P<messages>\d+)"
)
_LINK = re.compile(r"Link details: total send bytes (?P<sent_bytes>\d+), recv bytes \d+, send actions (?P<messages>\d+)")


def parse(log: str) -> Statistics:
    """Read one run's statistics.

    Raises:
        ValueError: they are not there, or there twice.
    """
    totals = list(_LINK.finditer(log))
    if len(totals) != 1:
        raise ValueError(
            f"{len(totals)} runs in the engine's log; expected one (is this the version of spu that raysp's extra names?)"
        )
    operations = tuple(
        OperationStatistics(
            operation=found["operation"],
            times=int(found["times"]),
            wall_s=float(found["wall_s"]),
            sent_bytes=int(found["sent_bytes"]),
            messages=int(found["messages"]),
        )
        for found in _OPERATION.finditer(log)
    )
    return Statistics(sent_bytes=int(totals[0]["sent_bytes"]), messages=int(totals[0]["messages"]), operations=operations)
