"""What models are compared by: every objective's column, name, unit and direction.

Owns the names under which tables, figures and the page show them. Refuses to compute anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A column of the results, as something to be had more or less of."""

    column: str
    label: str
    """With its unit."""
    short: str
    """For the head of a column."""
    maximise: bool = False
    is_log: bool = False
    """Whether its values spread over orders of magnitude."""
    is_whole: bool = False
    """Whether one model's value is a whole number."""


def _seconds(column: str, short: str, label: str) -> Objective:
    return Objective(column=column, short=short, label=f"{label} (s)", is_log=True)


def _bytes(column: str, short: str, label: str) -> Objective:
    return Objective(column=column, short=short, label=f"{label} (bytes)", is_log=True)


OBJECTIVES: dict[str, Objective] = {
    objective.column: objective
    for objective in (
        Objective(column="val_accuracy", label="validation accuracy (%)", short="val %", maximise=True),
        Objective(column="test_accuracy", label="test accuracy (%)", short="test %", maximise=True),
        Objective(column="worst_class_accuracy", label="test accuracy, worst class (%)", short="worst class %", maximise=True),
        Objective(column="class_spread", label="test accuracy, standard deviation over classes (points)", short="class spread"),
        Objective(column="relus", label="ReLUs per image", short="ReLUs", is_log=True, is_whole=True),
        Objective(column="macs", label="MACs per image", short="MACs", is_log=True, is_whole=True),
        Objective(column="depth", label="depth (convolutions)", short="depth", is_whole=True),
        Objective(column="params", label="parameters", short="params", is_log=True, is_whole=True),
        _seconds("est_delphi_online_lan_s", "est. online LAN s", "estimated DELPHI online time, LAN"),
        _seconds("est_delphi_online_wan_s", "est. online WAN s", "estimated DELPHI online time, WAN"),
        _seconds("est_delphi_offline_lan_s", "est. offline LAN s", "estimated DELPHI offline time, LAN"),
        _seconds("est_delphi_offline_wan_s", "est. offline WAN s", "estimated DELPHI offline time, WAN"),
        _bytes("est_delphi_online_bytes", "est. online B", "estimated DELPHI online traffic"),
        _bytes("est_delphi_offline_bytes", "est. offline B", "estimated DELPHI offline traffic"),
        _seconds("pi_time_s", "PI s", "measured private inference, one warm image"),
        _bytes("pi_bytes", "PI B", "measured private inference traffic"),
        _seconds("pred_time_s", "pred. s", "predicted private inference, one warm image"),
        _bytes("pred_bytes", "pred. B", "predicted private inference traffic"),
        Objective(column="pred_round_trips", label="predicted round trips", short="pred. trips", is_log=True),
        _seconds("pred_lan_s", "pred. LAN s", "predicted private inference, LAN"),
        _seconds("pred_wan_s", "pred. WAN s", "predicted private inference, WAN"),
        _seconds("pred_link_s", "pred. link s", "predicted private inference, the link of --link"),
    )
}
"""Every objective by its column, in the order in which they are shown."""

ACCURACIES = ("val_accuracy", "test_accuracy")
BY_CLASS = ("worst_class_accuracy", "class_spread")
"""What a mean accuracy hides. Records of before classes were counted apart have neither."""


def told(value: float) -> str:
    """A value or a limit for people: six digits, but all that stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:,.6g}"


def present(table: pd.DataFrame) -> list[Objective]:
    """The objectives of which a table has a value."""
    return [o for o in OBJECTIVES.values() if o.column in table and table[o.column].notna().any()]


def chosen(columns: Sequence[str]) -> list[Objective]:
    """Objectives by their columns.

    Raises:
        ValueError: one is unknown or given twice, or there is none.
    """
    for column in columns:
        if column not in OBJECTIVES:
            raise ValueError(f"objective {column!r}; expected of: {', '.join(OBJECTIVES)}")
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"objectives {' '.join(columns) or '(none)'}; expected one or more, each once")
    return [OBJECTIVES[column] for column in columns]
