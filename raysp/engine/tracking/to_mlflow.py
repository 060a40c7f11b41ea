"""Runs in MLflow, through its client.

Owns tags' names, and how a run of before is found. Contract: nothing is logged to a global run, so that many are open at once.
"""

import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

from raysp.engine.tracking.interface import Ending, Refused, Run, Status

os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

EXPERIMENT = "raysp"
"""Where MLFLOW_EXPERIMENT_NAME names no other."""
ID, STATUS, CONTINUED = "raysp.run", "raysp.status", "raysp.continued"
TOLD_BY = "raysp.told_by"
"""The tag of which process was the last to open a run: a random number."""
EPOCH = "epoch"
"""The metric that holds the last epoch."""
LONGEST = 500
"""Signs of a parameter; all servers take as many."""
AT_ONCE = 100
"""Parameters or tags in one request, at most."""
_STATUSES: Mapping[Status, str] = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "interrupted": "KILLED"}


class Mlflow:
    """See `raysp.engine.tracking.interface.Tracker`.

    Args:
        place: the tracking URI.
    """

    def __init__(self, place: str) -> None:
        self._client = MlflowClient(tracking_uri=place)
        self._experiment = ""
        self._own = uuid.uuid4().hex
        self._known: dict[str, str] = {}
        """MLflow's ids by ours."""
        self._continued: dict[str, int] = {}
        """How often sweeps have gone on with a run, by our ids."""

    def open(self, run: Run) -> int:
        """See `Tracker.open`."""
        return _asked(lambda: self._open(run))

    def epoch(self, run: Run, epoch: int, figures: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        metrics = _metrics({**figures, EPOCH: float(epoch)}, epoch)
        _asked(lambda: self._client.log_batch(self._known[run.id], metrics=metrics))

    def close(self, run: Run, ending: Ending) -> None:
        """See `Tracker.close`."""
        ours = self._known[run.id]
        if ending.status == "interrupted" and not _asked(lambda: self._is_own(ours)):
            return  # of a sweep that was killed, and which goes on with the run already
        tags = _tags({STATUS: ending.status, **ending.tags})
        _asked(lambda: self._client.log_batch(ours, metrics=_metrics(ending.figures, 0), tags=tags))
        _asked(lambda: self._client.set_terminated(ours, _STATUSES[ending.status]))

    def _is_own(self, ours: str) -> bool:
        return bool(self._client.get_run(ours).data.tags.get(TOLD_BY) == self._own)

    def _open(self, run: Run) -> int:
        if not self._experiment:
            self._experiment = self._find_experiment()
        if run.id in self._known:  # a stage that pauses, or is given out again
            self._client.update_run(self._known[run.id], status="RUNNING")
            return 0
        found = self._client.search_runs([self._experiment], f"tags.`{ID}` = '{run.id}'", max_results=1)
        before = int(found[0].data.tags.get(CONTINUED, "0")) + 1 if found else 0
        times = self._continued.setdefault(run.id, before)  # of a first try that failed halfway, the same again
        now = {STATUS: "running", TOLD_BY: self._own}
        if found:
            ours = found[0].info.run_id
            self._client.update_run(ours, status="RUNNING")
            self._client.log_batch(ours, tags=_tags(now | ({CONTINUED: str(times)} if times else {})))
        else:
            tags = now | {ID: run.id, "raysp.stage": run.kind, "raysp.sweep": run.sweep, **run.tags}
            ours = self._client.create_run(self._experiment, run_name=run.name, tags={n: t[:LONGEST] for n, t in tags.items()})
            ours = ours.info.run_id
        params = [Param(name, str(value)[:LONGEST]) for name, value in run.params.items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(ours, params=params[start : start + AT_ONCE])
        self._known[run.id] = ours
        return int(found[0].data.metrics.get(EPOCH, 0)) if found else 0

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        for _ in range(2):
            if found := self._client.get_experiment_by_name(name):
                return found.experiment_id
            try:
                return self._client.create_experiment(name)
            except MlflowException:  # another sweep has made it meanwhile; else the second look says why not
                continue
        return self._client.create_experiment(name)


def _metrics(figures: Mapping[str, float], step: int) -> list[Any]:
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in figures.items()]


def _tags(tags: Mapping[str, str]) -> list[Any]:
    return [RunTag(name, text[:LONGEST]) for name, text in tags.items()]


def _asked(ask: Any) -> Any:
    """Ask the server. Raises Refused for what it won't take, and what the client raises where it can't be reached."""
    try:
        return ask()
    except MlflowException as error:
        status = error.get_http_status_code()
        # The client gives what it couldn't send the status 500.
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise Refused(str(error)) from error
        raise
