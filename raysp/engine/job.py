"""One stage from its directory to its record; the same for every way to run.

Owns the order of things in a job: read the parents, fix the threads, run, write the record. Refuses to decide which job is next
(`raysp.planning.plan`, the runners). Contract: returns only when the record is on disk, or what the stage was worth at its rung
(of several workers the first, which writes); on an error writes the traceback beside it and raises `StageError`, which names
the stage and its directory. `Terminated` passes through: the stage has not failed.
"""

import os
import platform
import socket
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from raysp.engine.context import Context, Paused, Place, Report, read_parents
from raysp.engine.options import uses_graph
from raysp.engine.process import keep_freed_memory, use_tensor_cores
from raysp.engine.workers import ALONE, WorkerLost, Workers, is_lost_worker
from raysp.latency.known import hand_in
from raysp.store.location import Unreachable, exists
from raysp.store.records import NoLongerOwner
from raysp.store.stage import Stage
from raysp.store.tensor_files import DamagedFile

PACKAGES = ("raysp", "torch", "torchvision", "numpy", "ray", "safetensors", "scikit-learn")


class StageError(Exception):
    """A stage failed; the message names it, its directory, its last finished epoch and the cause."""


def run_job(
    stage: Stage, place: Place, report: Report, workers: Workers = ALONE, *, until: int | None = None
) -> dict[str, Any] | None:
    """Run one stage whose parents are done, and return its record. Each of a stage's workers must call this.

    Args:
        stage: the stage to run; if its record is already there it is returned as it is.
        place: where to run.
        report: called once per epoch in this process.
        workers: the stage's processes, as this one sees them; the first writes.
        until: the epoch, from 1, after which the stage is to pause.

    Returns:
        The record; None where the stage has paused. What it was worth then is on disk (`Store.read_rungs`).

    Raises:
        StageError: the stage's code raised; its traceback is in `error.txt` in the stage's directory.
        WorkerLost: another of the stage's workers is gone.
        NoLongerOwner: another run has taken the results root over.
        Unreachable: the results root is remote, and couldn't be reached for a while. A fault of a machine, as `WorkerLost` is.
    """
    store = place.store
    last_epoch = 0

    def remember(figures: dict[str, Any]) -> None:
        nonlocal last_epoch
        last_epoch = figures.get("epoch", last_epoch)
        report(figures)

    try:
        if record := workers.from_first(lambda: store.read(stage)):
            return record
        torch.set_num_threads(place.num_threads)
        if place.weighing.calibrations:
            hand_in(place.weighing.calibrations)
        keep_freed_memory()
        if place.gpus:
            use_tensor_cores()
        started = datetime.now(UTC)
        clock = time.monotonic()
        parents = read_parents(stage, store)
        context = Context(stage=stage, place=place, parents=parents, report=remember, workers=workers, until=until)
        try:
            result = stage.run(stage.config, context)
        except Paused as paused:
            if workers.rank == 0:
                rung = {"rows": [dict(row) for row in paused.rows], "time_s": paused.time_s, "host": _host(place, workers)}
                store.save_rung(stage, paused.epoch, rung)
            return None
        record = {
            "stage": stage.name,
            "version": stage.version,
            "key": stage.key,
            "config": stage.config.to_json(),
            "canonical": stage.canonical_key(parents),
            "parents": {role: {"stage": p.name, "key": p.key} for role, p in stage.parents.items()},
            "metrics": result.metrics,
            "history": result.history,
            "rows": result.rows,
            "time_s": sum(h.get("time_s", 0.0) for h in result.history) or time.monotonic() - clock,
            "started": started.isoformat(timespec="milliseconds"),
            "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "host": _host(place, workers),
            "versions": _versions(),
            "labels": dict(place.labels),
        }
        if workers.rank == 0:
            store.commit(stage, record, context.saved)
        return record
    except (NoLongerOwner, Unreachable):
        raise
    except (Exception, SystemExit) as error:  # a stage that calls sys.exit has failed, whatever the status
        if workers.size > 1 and is_lost_worker(error):
            raise WorkerLost(f"{stage.label}: a worker was lost ({error})") from error
        where = f"{stage.label} failed " + (
            f"after epoch {last_epoch} of {stage.epochs}" if last_epoch else "in its first epoch here"
        )
        cause = traceback.format_exception_only(error)[-1].strip()  # holds even if the error's own __str__ raises
        if isinstance(error, DamagedFile) and exists(error.path):
            # A remote parent's weights are read only here. Without them the next run trains the parent again.
            with suppress(OSError, NoLongerOwner):
                cause += f"; set aside as {store.set_aside(error.path).name}, so that the same command makes it again"
        try:
            store.write_error(stage, f"{where}\n\n{traceback.format_exc()}")
        except (OSError, NoLongerOwner) as second:
            where += f" (its error.txt could not be written: {second})"
        message = f"{where}: {cause}; see {store.directory(stage)}"
        raise StageError(message.encode(errors="backslashreplace").decode()) from error


def _host(place: Place, workers: Workers) -> dict[str, Any]:
    host: dict[str, Any] = {"name": socket.gethostname(), "cpus": os.cpu_count(), "machine": platform.machine()}
    host |= {"threads": place.num_threads, "workers": workers.size, "compile": place.compile}
    if place.gpus:
        host |= {"gpu": torch.cuda.get_device_name(), "gpus": place.gpus}
        host["cuda_graph"] = uses_graph(place.cuda_graph, place.gpus, workers.size)
    return host


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # ray is absent where stages run without it
    return found
