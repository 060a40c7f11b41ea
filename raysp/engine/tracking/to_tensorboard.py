"""Runs as TensorBoard's files: a directory per stage, by its name and key.

Owns their form. Contract: epochs that a resumed stage trains again hide those of before.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from raysp.engine.tracking.interface import Ending, Run


class TensorBoard:
    """See `raysp.engine.tracking.interface.Tracker`.

    Args:
        place: the directory.
    """

    def __init__(self, place: str) -> None:
        self._place = Path(place)
        self._writers: dict[str, SummaryWriter] = {}

    def open(self, run: Run) -> int:
        """See `Tracker.open`. Files are made when there is something to write."""
        return 0

    def epoch(self, run: Run, epoch: int, figures: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        writer = self._writer(run, epoch)
        for name, value in figures.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    def close(self, run: Run, ending: Ending) -> None:
        """See `Tracker.close`."""
        writer = self._writer(run, None)
        writer.add_text("raysp", _table({"name": run.name, "status": ending.status, **run.tags, **ending.tags}))
        for name, value in ending.figures.items():
            writer.add_scalar(name, value)
        for summary in hparams({name: _plain(value) for name, value in run.params.items()}, dict(ending.figures)):
            writer.file_writer.add_summary(summary)
        writer.close()
        del self._writers[run.id]

    def _writer(self, run: Run, epoch: int | None) -> SummaryWriter:
        """The run's; one that begins anew hides what older files have from this epoch on."""
        if run.id not in self._writers:
            self._writers[run.id] = SummaryWriter(str(self._place / run.label), purge_step=epoch)
            self._writers[run.id].add_text("config", _table(run.params))
        return self._writers[run.id]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _table(rows: Mapping[str, Any]) -> str:
    """A table in Markdown, which TensorBoard draws."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
