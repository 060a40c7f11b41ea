"""The records of any number of results roots, read with mistrust.

Owns what may pass: a record whose rows are rows. Refuses to repair anything. Contract: nothing is written under a root; what
is damaged or foreign is named and left out; a stage that lies under several roots counts once.
"""

import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.objectives import OBJECTIVES
from raysp.data.config import DataConfig, Selection
from raysp.pi import MeasuredFile, read_measurements
from raysp.store import classes
from raysp.store.keys import SHORT_KEY_DIGITS
from raysp.store.location import Location, NotAFile, exists, read
from raysp.store.manifest import Manifest, read_manifests
from raysp.store.reasons import why
from raysp.store.record_files import read_rungs
from raysp.store.records import ERROR, READERS, RECORD, RUNGS, Store, label_of
from raysp.store.tensor_files import DamagedFile, unreadable

MOST_OF_AN_ERROR = 20_000
"""Characters of a traceback that a report shows."""
MOST_OF_A_TEXT = 500
"""Characters of a name; more is none of ours."""
LARGEST = 2.0**53
"""Beyond this not every whole number is one of floating point."""
COUNTS = ("budget", "width", "image_size", "epochs", "seed", "gate_epochs", "gate_blocks", "kernel_size")
NUMBERS = ("d_th", "gate_loss", "max_seconds", "beta", "depth_price", "layer_price")
TEXTS = (
    *("dataset", "model", "mask_method", "granularity", "mask_start", "sensitivity", "weights", "link", "gamma", "gb_init"),
    *("ac_head", "ac_init", "ac_end", "pram", "exit"),
)
"""Columns of rows with what they hold; those of objectives are `OBJECTIVES`'."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What several results roots hold."""

    records: list[dict[str, Any]]
    """Of finished stages, by key each once."""
    roots: Mapping[str, Location]
    """Where each of them lies, by key."""
    manifests: list[Manifest]
    """The sweeps' plans, each once."""
    failures: Mapping[str, str]
    """Tracebacks of planned stages that aren't done and have failed, by key."""
    stopped: Mapping[str, dict[str, Any]]
    """Of planned stages that have paused, or were given up, and aren't done, by key: `epochs`, `time_s` and `host` so far."""
    damaged: list[DamagedFile]
    """What was left out."""
    measurements: Mapping[str, list[MeasuredFile]] = field(default_factory=dict)
    """What was run under private inference, by key."""


def read_runs(roots: Sequence[Location]) -> Runs:
    """Read results roots; those of running sweeps too.

    Raises:
        ValueError: one doesn't exist or is no directory.
        OSError: one can't be read at all.
    """
    records: dict[str, dict[str, Any]] = {}
    where: dict[str, Location] = {}
    manifests: dict[str, Manifest] = {}
    failures: dict[str, str] = {}
    stopped: dict[str, dict[str, Any]] = {}
    damaged: list[DamagedFile] = []
    for root in roots:
        check_root(root)
        store = Store(root=root)
        found, bad = store.records()
        damaged += bad
        for record in found:
            if reason := why_not(record):
                damaged.append(DamagedFile(root / "stages" / label_of(record) / RECORD, reason))
            elif record["key"] not in records:
                records[record["key"]], where[record["key"]] = record, root
        plans, bad = read_manifests(root)
        damaged += bad
        for manifest in plans:
            manifests.setdefault(manifest.id, manifest)
            for stage in manifest.stages:
                if stage.key in records:
                    continue
                directory = root / "stages" / stage.label
                try:
                    if text := _error(directory):
                        failures[stage.key] = text
                    if rungs := read_rungs(directory / RUNGS, stage.key):
                        stopped[stage.key] = {"epochs": max(rungs), **rungs[max(rungs)]}
                except DamagedFile as error:
                    damaged.append(error)
                except OSError as error:
                    damaged.append(unreadable(directory, error))
    measurements, bad = _measurements(records, where)
    return Runs(
        records=list(records.values()),
        roots=where,
        manifests=list(manifests.values()),
        failures={key: text for key, text in failures.items() if key not in records},
        stopped={key: rung for key, rung in stopped.items() if key not in records},
        damaged=damaged + bad,
        measurements=measurements,
    )


def _measurements(
    records: Mapping[str, dict[str, Any]], where: Mapping[str, Location]
) -> tuple[dict[str, list[MeasuredFile]], list[DamagedFile]]:
    """What lies beside each record of a model."""
    keys = [key for key, record in records.items() if record["rows"]]
    with ThreadPoolExecutor(READERS) as pool:
        directories = (where[key] / "stages" / label_of(records[key]) for key in keys)
        read = list(pool.map(read_measurements, directories, (records[key] for key in keys)))
    return {key: found for key, (found, _) in zip(keys, read, strict=True) if found}, [error for _, bad in read for error in bad]


def why_not(record: Mapping[str, Any]) -> str:
    """Why a record can't be used, which is in one of our format; empty when it can.

    A digest tells a damaged record from a whole one. This tells one that another program has written, digest and all.
    """
    if not all(isinstance(row, dict) for row in (*record["rows"], *record["history"])):
        return "its rows or its history are not lists of objects"
    if not _is_number(record.get("time_s")) or record["time_s"] < 0:
        return f"its time_s is {record.get('time_s')!r:.40}; expected seconds"
    for name in ("labels", "parents", "host"):
        if not isinstance(record.get(name, {}), dict):
            return f"its {name!r} is {type(record[name]).__name__}, expected dict"
    if not all(isinstance(parent, dict) and _is_text(parent.get("key")) for parent in record.get("parents", {}).values()):
        return "its parents are not objects with a 'key'"
    if (preset := record.get("labels", {}).get("preset")) is not None and not _is_text(preset):
        return "its preset is no line of text"
    for row in record["rows"]:
        if reason := _why_not_row(row):
            return f"its row has {reason}"
    if reason := classes.why_not(record["metrics"]):
        return reason
    if record["stage"] == "mask":
        try:
            facts = mask_facts(record)
        except (KeyError, TypeError, ValueError) as error:
            return f"its configuration is not a mask's ({why(error)})"
        if reason := _why_not_row(facts):
            return f"its configuration has {reason}"
    if record["stage"] in ("mask", "finetune"):
        layers = record["metrics"].get("layers", [])
        if not (isinstance(layers, list) and all(map(_is_layer, layers))):
            return "its layers are not ReLU layers with 'layer', 'kept' and 'size'"
    return ""


def _why_not_row(row: Mapping[str, Any]) -> str:
    """Which column of a row holds what it can't."""
    for name, value in row.items():
        if value is None and name != "selection":
            continue
        objective = OBJECTIVES.get(name)
        if name in COUNTS or (objective and objective.is_whole):
            good, expected = _is_count(value), "a whole number of at least 0"
        elif objective:
            good = _is_number(value) and 0 <= value <= (100 if objective.maximise else LARGEST)
            expected = "percent" if objective.maximise else "a number of at least 0"
        elif name in NUMBERS:
            good, expected = _is_number(value), "a number"
        elif name == "selection":
            good, expected = value in typing.get_args(Selection), "val or test"
        elif name == "ac_after":
            good, expected = _is_text(value) or _is_count(value), "stages"
        else:
            good, expected = _is_text(value) or _is_number(value) or type(value) is bool, "a plain value"
            if name in TEXTS:
                good, expected = _is_text(value), "a line of text"
        if not good:
            return f"{value!r:.40} for {name!r:.40}; expected {expected}"
    return ""


def mask_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a mask's record says of data, network and mask, by the names of a table's columns. Raises what such access raises."""
    config = record["config"]
    experiment = config["experiment"]
    data = DataConfig(**experiment["data"])
    return {
        "dataset": data.label,
        "model": experiment["model"],
        "width": experiment["width"],
        "image_size": data.image_size,
        "epochs": config["recipe"]["epochs"],
        "seed": experiment["seed"],
        "selection": data.selection,
        "precision": config["recipe"].get("precision", "fp32"),  # records from before there was a choice have none
        "mask_method": config["method"],
        "granularity": config.get("granularity", "pixel"),  # likewise
        "mask_start": config.get("start"),
        "depth_price": None,
        "layer_price": None,
        "sensitivity": record["metrics"].get("sensitivity"),
        "budget": config["budget"],
    }


def configurations(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each record's stage would be called if it had no seed, by key: 12 hex digits that equal configurations share.

    They hash name, version, configuration without the seed, and the parents' likewise. A parent without a record is taken by its
    key, so that doubt keeps apart.
    """
    by_key = {record["key"]: record for record in records}
    found: dict[str, str] = {}

    def visit(key: str, above: frozenset[str]) -> str:
        record = by_key.get(key)
        if record is None or key in above:
            return key
        if key not in found:
            parents = {
                role: visit(parent["key"], above | {key})
                for role, parent in record.get("parents", {}).items()
                if isinstance(parent, dict) and isinstance(parent.get("key"), str)
            }
            identity = [record["stage"], record.get("version"), _without_seed(record["config"]), parents]
            found[key] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:SHORT_KEY_DIGITS]
        return found[key]

    for key in by_key:
        visit(key, frozenset())
    return found


def check_root(root: Location) -> None:
    """Raise ValueError unless there is a directory."""
    is_directory = root.is_dir() if isinstance(root, Path) else exists(root / "stages") or root.exists()
    if not is_directory:
        raise ValueError(f"{root} is no results directory; expected one that a sweep has written (its --storage)")


def _error(directory: Location) -> str:
    try:
        content = read(directory / ERROR)
    except NotAFile:
        return ""
    return (content or b"").decode(errors="replace")[:MOST_OF_AN_ERROR]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_text(value: Any) -> bool:
    return type(value) is str and value.isprintable() and len(value) <= MOST_OF_A_TEXT


def _is_layer(layer: Any) -> bool:
    if not (isinstance(layer, dict) and _is_text(layer.get("layer"))):
        return False
    kept, size, eta = (layer.get(name) for name in ("kept", "size", "eta_alpha"))
    counted = _is_count(kept) and _is_count(size)
    return counted and layer["kept"] <= layer["size"] > 0 and (eta is None or _is_number(eta))


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    experiment = config.get("experiment")
    if not isinstance(experiment, dict):
        return dict(config)
    return {**config, "experiment": {name: value for name, value in experiment.items() if name != "seed"}}
