"""A model's card: what it is, what it was trained on and how, how good it is, what it costs; as JSON and as Markdown.

Owns the card's content. Refuses to guess: what isn't recorded stands there as not known. Contract: what was estimated and
what was measured is told apart.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from raysp.data.pictures import PREPARATION
from raysp.latency.known import packaged
from raysp.latency.prediction import predict
from raysp.models.costs import count_costs, estimate_delphi
from raysp.models.exits import FINAL
from raysp.models.files import checked_weights
from raysp.models.network import Network
from raysp.pi import MEANING
from raysp.pi.files import read_measurements
from raysp.store.classes import NAMES, percent_of, worst_class
from raysp.store.location import Location, exists
from raysp.store.record_files import read_record
from raysp.store.records import RECORD, WEIGHTS, label_of

NOT_KNOWN = "not known"


def card_of(
    model: Network,
    exit: str,  # noqa: A002 (the field's word)
    directory: Location,
    *,
    data_licence: str | None,
) -> dict[str, Any]:
    """Collect what is known of a model.

    Args:
        model: as it was saved.
        exit: one of its exits.
        directory: where it came from: a finished stage's, or one that `save_model` wrote.
        data_licence: the user's words; None leaves it open.

    Raises:
        DamagedFile: the record can't be trusted, or is about other weights.
    """
    record = read_record(directory / RECORD) or {}
    row: Mapping[str, Any] = next((row for row in record.get("rows", ()) if row.get("exit") == exit), {})
    costs = count_costs(model, exit)
    layers = sum(layer.relus > 0 for layer in costs.layers)
    measured, _ = read_measurements(directory, {"files": {WEIGHTS: checked_weights(directory)}})
    chain = _chain(record, directory)
    return {
        "model": {
            "architecture": model.name,
            "width": model.width,
            "exit": exit,
            "classes": model.num_classes,
            "class_names": _class_names(record, directory, model.num_classes),
            "input": {
                "shape": ["images", model.in_channels, model.image_size, model.image_size],
                "normalisation": "images in [0, 1], minus mean, divided by std, per channel",
                "mean": list(model.input_mean),
                "std": list(model.input_std),
                "preparation": _preparation(model.in_channels),
            },
        },
        "data": {"name": row.get("dataset", NOT_KNOWN), "licence": data_licence or "not stated"},
        "accuracy_percent": {
            "validation": row.get("val_accuracy", NOT_KNOWN),
            "test": row.get("test_accuracy", NOT_KNOWN),
            "worst_class": _worst_class(record, exit, directory),
            "selected_on": row.get("selection", NOT_KNOWN),
        },
        "costs_per_image": {
            "counted": costs.totals(),
            "estimated": estimate_delphi(costs.relus, costs.macs, layers),
            "predicted": _predicted(model, exit),
            "measured": [
                {"protocol": f"{m.protocol}: {MEANING[m.protocol]}", "time_s": m.time_s, "bytes": m.bytes}
                for m in measured
                if m.exit == exit
            ],
        },
        "recipe": {
            "preset": record.get("labels", {}).get("preset", NOT_KNOWN),
            "choices": {name: value for name, value in row.items() if name not in costs.totals() and "accuracy" not in name},
            "stages": chain,
        },
        "origin": {
            "key": record.get("key", NOT_KNOWN),
            "git": record.get("labels", {}).get("git", NOT_KNOWN),
            "trained_with": record.get("versions", NOT_KNOWN),
            "trained": record.get("finished", NOT_KNOWN),
            "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def _preparation(channels: int) -> dict[str, str]:
    """How a picture becomes the input: what was done to the images that the model was trained on."""
    grey = {"colour": "grey: of RGB, which are equal, the first"} if channels == 1 else {}
    return {**PREPARATION, **grey}


def _predicted(model: Network, exit_name: str) -> dict[str, Any] | str:
    """What the package's calibrations tell of it: see `raysp.latency.prediction`."""
    try:
        told = predict(model, exit_name, packaged())
    except ValueError as error:  # a layer that can't be told, or that no engine runs
        return f"{NOT_KNOWN}: {error}"
    return {
        "warm_s": told.time_s,
        "bytes": round(told.bytes),
        "round_trips": round(told.round_trips),
        **{f"{link}_s": seconds for link, seconds in told.modelled_s.items()},
        "calibration": told.calibration,
        "fitted_layers": list(told.fitted),
    }


def _baseline_of(record: Mapping[str, Any], directory: Location) -> Mapping[str, Any]:
    """The record of the all-ReLU network that a stage stands on; empty if it isn't there."""
    if not (parent := record.get("parents", {}).get("baseline")):
        return record
    path = directory.parent / label_of(parent) / RECORD
    return (read_record(path) if exists(path) else None) or {}


def _class_names(record: Mapping[str, Any], directory: Location, num_classes: int) -> list[str] | str:
    """In the order of the network's outputs."""
    names: list[str] = _baseline_of(record, directory).get("metrics", {}).get(NAMES, [])
    return names if len(names) == num_classes else NOT_KNOWN


def _worst_class(record: Mapping[str, Any], exit_name: str, directory: Location) -> dict[str, Any] | str:
    """The class with the lowest test accuracy, and what it has lost against the all-ReLU network, as far as that is known."""
    percent = percent_of(record.get("metrics", {}), exit_name)
    worst = worst_class(percent)
    if worst is None:
        return NOT_KNOWN
    baseline = _baseline_of(record, directory)
    names = baseline.get("metrics", {}).get(NAMES, [])
    before = percent_of(baseline.get("metrics", {}), FINAL)
    had = before[worst] if len(before) == len(percent) else None
    return {
        "class": names[worst] if len(names) == len(percent) else str(worst),
        "test": percent[worst],
        "all_relu": NOT_KNOWN if had is None else had,
    }


def _chain(record: Mapping[str, Any], directory: Location) -> dict[str, Any]:
    """Configuration of the stage and of all that it stands on, as far as their records are there, by stage."""
    if not record:
        return {}
    found = {record["stage"]: record["config"]}
    for parent in record.get("parents", {}).values():
        path = directory.parent / label_of(parent) / RECORD
        if exists(path) and (of_parent := read_record(path)):
            found |= _chain(of_parent, path.parent)
    return found


def markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    model, accuracy = card["model"], card["accuracy_percent"]
    flattered = " These flatter: the test part chose the model." if accuracy["selected_on"] == "test" else ""
    relus, predicted = card["costs_per_image"]["counted"]["relus"], card["costs_per_image"]["predicted"]
    width = "" if model["width"] is None else f", width {model['width']}"
    lines = [
        f"# {model['architecture']}{width}, {relus:,} ReLUs, exit {model['exit']}",
        "",
        "Trained for private inference with raysp.",
        "",
        *_section("Input", _without(model["input"], "preparation")),
        *_section("Output", {"classes": model["classes"], "in this order": _listed(model["class_names"])}),
        *_section("From a picture to the input, in this order", model["input"]["preparation"]),
        *_section("Data", card["data"]),
        *_section("Accuracy in percent", {**accuracy, "worst_class": _worst_line(accuracy["worst_class"])}),
        *([flattered.strip(), ""] if flattered else []),
        *_section("Costs per image, counted", card["costs_per_image"]["counted"]),
        *_section("Costs per image, estimated from DELPHI's published constants", card["costs_per_image"]["estimated"]),
        *_section(
            "Costs per image, predicted under CHEETAH from measured layers; over links modelled",
            {"all": predicted}
            if isinstance(predicted, str)
            else _without(predicted, "fitted_layers")
            | {"layers that were not measured, but fitted": len(predicted["fitted_layers"])},
        ),
    ]
    for measured in card["costs_per_image"]["measured"]:
        lines += _section("Costs per image, measured", measured)
    lines += _section("What loads it", {"file": card["file"]["name"], **card["file"]["needs"]})
    lines += _section("Check", card["check"])
    chosen = {name: value for name, value in card["recipe"]["choices"].items() if value is not None}
    lines += _section("Recipe", {**chosen, "preset": card["recipe"]["preset"]})
    for stage, config in card["recipe"]["stages"].items():
        lines += [f"### Stage {_plain(stage)}", "", "```json", json.dumps(config, indent=1), "```", ""]
    lines += _section("Origin", card["origin"])
    return "\n".join(lines)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in values.items() if each != name}


def _listed(names: Sequence[str] | str) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def _worst_line(worst: Mapping[str, Any] | str) -> str:
    if isinstance(worst, str):
        return worst
    had = worst["all_relu"]
    lost = "" if isinstance(had, str) else f" ({worst['test'] - had:+.2f} points from the all-ReLU network's {had:.2f})"
    return f"{worst['class']}: {worst['test']:.2f}{lost or ' (what it lost is not known)'}"


def _section(title: str, values: Mapping[str, Any]) -> list[str]:
    return [f"## {title}", "", *(f"- {name.replace('_', ' ')}: {_plain(value)}" for name, value in values.items()), ""]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("<", "&lt;")
