"""From records to the answer "which model should I deploy?": the report, in Python and as a command.

What is offered here is imported when it is first asked for, so that the command's `--help` need not wait for it.
"""

from typing import TYPE_CHECKING

from raysp.lazy import attach

__all__ = [
    "ESTIMATES",
    "FRONT",
    "MEASURED",
    "PREDICTION",
    "QUALIFIES",
    "Question",
    "Report",
    "read_report",
    "save_report",
    "tables_of",
    "write_report",
]

if TYPE_CHECKING:
    from analysis.report.answer import (
        ESTIMATES,
        FRONT,
        MEASURED,
        PREDICTION,
        QUALIFIES,
        Question,
        Report,
        read_report,
        save_report,
        tables_of,
        write_report,
    )  # fmt: skip
else:
    __getattr__, __dir__ = attach(__name__, dict.fromkeys(__all__, "analysis.report.answer"))
