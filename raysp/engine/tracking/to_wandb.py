"""Runs in Weights & Biases, through its package.

Owns how a stage becomes one of its runs. Contract: many are open at once in one process; a resumed stage adds to the run
of the same id. After a failure W&B's service, which else takes that id for used, is begun anew, and open runs are resumed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
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
        """W&B's runs by our ids."""
        self._begun: set[str] = set()
        """Ids of runs that this process has begun."""
        self._failed = False

    def open(self, run: Run) -> int:
        """See `Tracker.open`."""
        with self._asked():
            if run.id in self._open:
                return 0
            made = self._of(run)
            if made.resumed and run.id not in self._begun:
                made.config.update({"raysp.continued": True}, allow_val_change=True)
            self._begun.add(run.id)
            return made.step - 1 if made.resumed else 0

    def epoch(self, run: Run, epoch: int, figures: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        with self._asked():
            self._of(run).log({**figures, "epoch": epoch}, step=epoch)

    def close(self, run: Run, ending: Ending) -> None:
        """See `Tracker.close`."""
        with self._asked():
            made = self._of(run)
            made.summary.update({**ending.figures, "raysp.status": ending.status, **ending.tags})
            made.finish(exit_code=_EXITS[ending.status])
            del self._open[run.id]

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """What fails in this block makes the next one begin with a new service of W&B's."""
        if self._failed:
            self._open.clear()
            with suppress(Exception, SystemExit):  # of the same trouble
                wandb.teardown()  # waits until what open runs hold is sent
            self._failed = False
        try:
            yield
        except Exception as error:
            self._failed = True
            if isinstance(error, (AuthenticationError, UsageError)):
                raise Refused(str(error)) from error
            raise

    def _of(self, run: Run) -> Any:
        """W&B's run: the open one, else it is begun, or resumed."""
        if run.id in self._open:
            return self._open[run.id]
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
        runs = Path(wandb.setup().settings.wandb_dir)
        before = set(runs.glob("*"))
        try:
            self._open[run.id] = wandb.init(
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
        except Exception:
            for empty in set(runs.glob(f"*run-*-{run.id}*")) - before:  # else every try leaves one
                shutil.rmtree(empty, ignore_errors=True)
            raise
        return self._open[run.id]
