"""Runs in Weights & Biases, through its package.

Owns how a stage becomes one of its runs. Contract: many are open at once in one process; a resumed stage adds to the run
of the same id.
"""

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb
from wandb.errors import AuthenticationError, UsageError

from raysp.engine.tracking.interface import Ending, Refused, Run, Status

INIT_S = 8.0
"""Seconds for W&B to answer when a run begins; later it is sent to in the background."""
_EXITS: Mapping[Status, int] = {"done": 0, "failed": 1, "stopped": 0, "interrupted": 255}


class Wandb:
    """See `raysp.engine.tracking.interface.Tracker`.

    Args:
        place: `PROJECT` or `ENTITY/PROJECT`.
    """

    def __init__(self, place: str) -> None:
        entity, _, self._project = place.rpartition("/")
        self._entity = entity or None
        self._open: dict[str, Any] = {}

    def open(self, run: Run) -> int:
        """See `Tracker.open`."""
        if run.id in self._open:
            return 0
        settings = wandb.Settings(
            init_timeout=INIT_S,
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        try:
            made = wandb.init(
                entity=self._entity,
                project=self._project,
                id=run.id,
                name=run.name,
                group=run.sweep[-128:],
                job_type=run.kind,
                config={**run.params, **run.tags},
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
        except (AuthenticationError, UsageError) as error:
            raise Refused(str(error)) from error
        if made.resumed:
            made.config.update({"raysp.continued": True}, allow_val_change=True)
        self._open[run.id] = made
        return made.step - 1 if made.resumed else 0

    def epoch(self, run: Run, epoch: int, figures: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        self._open[run.id].log({**figures, "epoch": epoch}, step=epoch)

    def close(self, run: Run, ending: Ending) -> None:
        """See `Tracker.close`."""
        made = self._open.pop(run.id)
        made.summary.update({**ending.figures, "raysp.status": ending.status, **ending.tags})
        made.finish(exit_code=_EXITS[ending.status])
