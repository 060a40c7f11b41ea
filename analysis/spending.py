"""What a sweep was to cost, what it has cost, and what came of it: plan against spent, and hypervolume over device-hours.

Owns the bookkeeping over plans and records. Refuses to guess: a stage that no record and no error speaks of is waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.pareto import GROUP, hypervolume, reference_point
from analysis.records import Runs
from raysp.store.manifest import Manifest
from raysp.store.records import SAME_AS

STATES = ("done", "stopped", "failed", "skipped", "waiting")
"""What may have become of a planned stage, as columns of `Spending.lines`."""
GROWTH_STEPS = 60
"""Points of a growth curve, at most."""


@dataclass(frozen=True, kw_only=True)
class Spending:
    """One sweep's plan against what was spent, in `lines`; and how its front grew, in `growth`."""

    manifest: Manifest
    lines: pd.DataFrame
    """A row per kind of stage and a last one for all: stages planned, done, stopped early (or paused), failed, skipped, waiting;
    epochs planned and trained, device_hours."""
    growth: pd.DataFrame
    """Columns `dataset`, `selection`, `device_hours` and `hypervolume`."""
    references: Mapping[Any, Mapping[str, float]]
    """The reference point of these hypervolumes (`analysis.pareto.reference_point`), by group of `GROUP`."""
    failed: list[tuple[str, str, str]]
    """Label, note and last line of the error of every failed stage."""
    skipped: list[tuple[str, str, str]]
    """Label and note of every stage that waits for a failed one, and that one's label."""


def device_seconds(record: Mapping[str, Any]) -> float:
    """Seconds of training times the workers' GPUs (or shares of one); on CPUs times the workers.

    A record from before GPUs' shares were noted counts its GPU as whole.
    """
    host = record.get("host", {})
    each = host.get("gpus", 1) if "gpu" in host else 1
    workers = host.get("workers", 1)
    known = all(type(number) in (int, float) for number in (each, workers))
    return float(record["time_s"]) * (each * workers if known else 1)


def spending_of(
    manifest: Manifest,
    runs: Runs,
    table: pd.DataFrame,
    objectives: Sequence[str],
    reference: Mapping[str, float] | None = None,
) -> Spending:
    """Account for one sweep.

    Args:
        manifest: its plan.
        runs: what there is of it.
        table: the results table of these runs.
        objectives: those of the hypervolume.
        reference: coordinates of its reference point that are to be these.
    """
    records = {record["key"]: record for record in runs.records}
    labels = {stage.key: stage.label for stage in manifest.stages}
    state: dict[str, str] = {}
    because: dict[str, str] = {}
    for stage in manifest.stages:  # ancestors first
        blocker = next((because.get(p, p) for p in stage.parents if state.get(p) in ("failed", "skipped")), None)
        if stage.key in records:
            state[stage.key] = "done"
        elif stage.key in runs.failures:
            state[stage.key] = "failed"
        elif stage.key in runs.stopped:
            state[stage.key] = "stopped"
        elif blocker is not None:
            state[stage.key], because[stage.key] = "skipped", blocker
        else:
            state[stage.key] = "waiting"
    rows = []
    for stage in manifest.stages:
        record = records.get(stage.key)
        spent = record or runs.stopped.get(stage.key)
        rows.append(
            {
                "stage": stage.name,
                "planned": 1,
                **{name: int(state[stage.key] == name) for name in STATES},
                "epochs_planned": stage.epochs,
                "epochs_trained": _trained(spent) if spent else 0,
                "device_hours": device_seconds(spent) / 3600 if spent else 0.0,
            }
        )
    lines = pd.DataFrame(rows).groupby("stage", sort=False).sum().reset_index()
    total = {"stage": "all", **lines.drop(columns="stage").sum().to_dict()}
    lines = pd.concat([lines, pd.DataFrame([total]).astype(lines.dtypes.to_dict())], ignore_index=True)
    notes = {stage.key: stage.note for stage in manifest.stages}
    growth, references = _growth(manifest, records, table, objectives, reference)
    return Spending(
        manifest=manifest,
        lines=lines,
        growth=growth,
        references=references,
        failed=[(labels[k], notes[k], _last_line(runs.failures[k])) for k, s in state.items() if s == "failed"],
        skipped=[(labels[k], notes[k], labels[because[k]]) for k, s in state.items() if s == "skipped"],
    )


def _growth(
    manifest: Manifest,
    records: Mapping[str, Mapping[str, Any]],
    table: pd.DataFrame,
    objectives: Sequence[str],
    fixed: Mapping[str, float] | None,
) -> tuple[pd.DataFrame, dict[Any, dict[str, float]]]:
    """The front's hypervolume after more and more of the sweep's stages, in the order in which they were finished, and the
    reference points.

    The box is that of all rows of the same group, whichever sweep they are of, so that sweeps compare.
    """
    done = [records[stage.key] for stage in manifest.stages if stage.key in records]
    done.sort(key=lambda record: str(record.get("finished", "")))
    hours = pd.Series([device_seconds(r) / 3600 for r in done], dtype=float).cumsum()
    position = {record["key"]: n for n, record in enumerate(done)}
    complete = table.dropna(subset=list(objectives))
    lines, references = [], {}
    for group, rows in complete.groupby(list(GROUP)):
        reference = reference_point(rows, objectives, fixed)
        mine = rows[rows["key"].isin(list(position))]
        order = mine["key"].map(position)
        for step in _some(sorted(set(order))):
            so_far = mine[order <= step]
            lines.append(
                {
                    **dict(zip(GROUP, group, strict=True)),
                    "device_hours": hours[step],
                    "hypervolume": hypervolume(so_far, objectives, reference),
                }
            )
            references[group] = reference
    return pd.DataFrame(lines, columns=[*GROUP, "device_hours", "hypervolume"]), references


def _trained(spent: Mapping[str, Any]) -> int:
    """Epochs that a stage has trained itself, finished or not; none if its results are another's."""
    if SAME_AS in spent or SAME_AS in spent.get("metrics", {}):
        return 0
    return len(spent["history"]) if "history" in spent else spent["epochs"]


def _some(steps: Sequence[int]) -> list[int]:
    """At most `GROWTH_STEPS` of them, evenly spread, the last among them."""
    most = min(len(steps), GROWTH_STEPS)
    return [steps[round((n + 1) * len(steps) / most) - 1] for n in range(most)]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
