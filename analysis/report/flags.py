"""The flags of `raysp report`, and what of them is refused before anything is read."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from raysp.command import amounts
from raysp.store.figures import COSTS

CORNER = "a tenth more than the all-ReLU network costs"
Amount = Annotated[str | None, arg(metavar="NUMBER", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Tables, pictures and one page of the models of one or more results directories. Sweeps may still be running."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN_DIR ...", help_behavior_hint="")]
    """Results directories or URLs: what sweeps were given as --storage."""
    out: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="(default: the results directory, if it is one)")] = None
    """Where to write. Files of an earlier report are replaced."""
    selection: Literal["val", "test"] = "val"
    """Which accuracy compares models. By the test part's it flatters: what is chosen by it can't be judged by it."""
    costs: Annotated[tuple[str, ...], arg(metavar="COLUMN ...", help_behavior_hint=f"(default: {' '.join(COSTS)})")] = COSTS
    """What models are compared by beside accuracy, for the front, its ranks, the knee and hypervolume: columns that are to be
    small, and worst_class_accuracy, which is to be large."""
    reference: Annotated[tuple[str, ...], arg(metavar="COLUMN=NUMBER ...", help_behavior_hint=f"(default: {CORNER})")] = ()
    """Where the hypervolume's box ends, such as relus=35k macs=9M depth=18, so that figures of several reports compare."""
    min_accuracy: Amount = None
    """List the models that have at least this accuracy in percent, best first."""
    min_class_accuracy: Amount = None
    """... and at least this test accuracy in percent in every class."""
    max_relus: Amount = None
    """... at most so many ReLUs, e.g. 50k."""
    max_macs: Amount = None
    """... at most so many MACs, e.g. 1.5M."""
    max_depth: Amount = None
    """... at most so many convolutions one after the other."""
    max_online_s: Amount = None
    """... at most this estimated online time in seconds (DELPHI's published constants over WAN; an estimate)."""
    max_seconds: Amount = None
    """... at most this predicted time of one image in seconds: over --link, without it on the calibration's machine."""
    max_bytes: Amount = None
    """... at most so many predicted bytes, e.g. 30M."""
    link: Annotated[str | None, arg(metavar="lan|wan|BANDWIDTH,ROUND_TRIP", help_behavior_hint="")] = None
    """A network between the parties, such as 100mbit,20ms (kbit, mbit, gbit; us, ms, s), whose predicted seconds are shown."""
    calibration: Annotated[tuple[str, ...], arg(metavar="FILE ...", help_behavior_hint="(default: those of the package)")] = ()
    """What `raysp pi calibrate` wrote, on one machine, to predict by; the first count where several have a layer."""
    protocols: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...", help_behavior_hint="(default: no estimates)")] = None
    """Estimate what the front's models would take under other kinds of private inference, from published constants: cheetah,
    garbled-circuits, function-secret-sharing, ckks; without a name all of them."""
    watch: bool = False
    """Write it again whenever something has changed, until interrupted."""
    every: float = 10.0
    """Seconds between two looks with --watch."""

    def limits(self, seconds: str) -> dict[str, float]:
        """The limits that were given, by the column that they are about. Raises ValueError.

        Args:
            seconds: the column of predicted seconds that --max-seconds is about.
        """
        columns = {
            "min_accuracy": f"{self.selection}_accuracy",
            "min_class_accuracy": "worst_class_accuracy",
            "max_relus": "relus",
            "max_macs": "macs",
            "max_depth": "depth",
            "max_online_s": "est_delphi_online_wan_s",
            "max_seconds": seconds,
            "max_bytes": "pred_bytes",
        }
        given = {name: getattr(self, name) for name in columns}
        limits = {columns[name]: read_amount(text, name) for name, text in given.items() if text is not None}
        for name in ("min_accuracy", "min_class_accuracy"):
            if limits.get(columns[name], 0) > 100:
                raise ValueError(f"--{name.replace('_', '-')} {given[name]}; expected percent, at most 100")
        return limits

    def check(self) -> None:
        """Raise ValueError for what is wrong whatever the results directories hold."""
        if not self.runs:
            last = "; give it before --protocols" if self.protocols else ""
            raise ValueError(
                f"no results directory; expected one or more that sweeps were given as --storage, such as runs/quick{last}"
            )
        if "" in self.runs:
            raise ValueError("a results directory's name is empty; expected one that a sweep was given as --storage")
        if not (math.isfinite(self.every) and self.every >= 1):
            raise ValueError(f"--every {self.every:g}; expected seconds, at least 1")
        if self.out == "":
            raise ValueError("--out is empty; expected a directory, or leave it out")
        if "" in self.calibration:
            raise ValueError("--calibration is empty; expected a file that `raysp pi calibrate` wrote, or leave it out")
        self.limits("pred_time_s")


MOST = 1e18
"""More of a reference point's coordinate is taken for a slip."""


def read_reference(pairs: tuple[str, ...], objectives: tuple[str, ...]) -> dict[str, float]:
    """The coordinates of a reference point, by objective. Raises ValueError."""
    found = {}
    for pair in pairs:
        column, equals, text = pair.partition("=")
        if column not in objectives or not equals:
            raise ValueError(f"--reference {pair}; expected COLUMN=NUMBER with one of {', '.join(objectives)}")
        if column in found:
            raise ValueError(f"--reference {pair}; {column} was given before; expected each once")
        found[column] = read_amount(text, "reference")
        if found[column] > MOST:
            raise ValueError(f"--reference {column}={text:.40}; expected at most {MOST:g}")
        if found[column] <= 0 and not column.endswith("accuracy"):
            raise ValueError(f"--reference {pair}; expected more than 0: a model's costs are counted down from there")
        if found[column] >= 100 and column.endswith("accuracy"):
            raise ValueError(f"--reference {pair}; expected percent below 100: a model's accuracy is counted up from there")
    return found


def read_amount(text: str, name: str) -> float:
    """A number such as 70, 0.5, 50k or 1.5M. Raises ValueError naming the flag."""
    found = amounts.read_amount(text)
    if found is None:
        raise ValueError(f"--{name.replace('_', '-')} {text!r}; expected a number of at least 0, such as 70, 0.5, 50k or 1.5M")
    return found
