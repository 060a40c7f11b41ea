"""Every model's cost under private inference as it is predicted: columns of the results, and what must be said of them.

Owns the columns' values. What a part of a network takes, and how parts add up, is `raysp.latency`'s. Contract: a row that can't
be told is left open, and why is said once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.records import Runs
from raysp.latency.fitted import Error
from raysp.latency.known import Calibrations
from raysp.latency.links import Link, seconds_over
from raysp.latency.protocols import MEANING
from raysp.latency.recorded import Layers, Predictions, Row, predict_records
from raysp.models.files import load_outline
from raysp.models.network import Network
from raysp.pi.machine import disturbed
from raysp.planning.weighing import COUNTED, LINKS, OF_LINK, seconds_column
from raysp.store.records import label_of

PREDICTED = (
    *("pred_time_s", "pred_bytes", "pred_round_trips", "pred_lan_s", "pred_wan_s", "pred_link_s"),
    *("pred_link", "pred_from", "pred_fitted"),
)
"""Columns that a table has only if a model's layers can be told."""
NAMED = 5
"""Shapes or reasons that notes name; of more they give the number."""


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """What is predicted of some runs."""

    columns: Mapping[tuple[str, str], Mapping[str, Any]]
    """By key and exit."""
    layers: Mapping[tuple[str, str], Layers]
    """What each of their layers takes, by key and exit."""
    links: tuple[Link, ...]
    """That seconds are said of."""
    notes: tuple[str, ...]
    """What must be said beside them."""


def foretell(runs: Runs, calibrations: Calibrations, link: Link | None, *, is_own: bool) -> Foretold:
    """Predict every model of some runs.

    Args:
        runs: their records.
        calibrations: what is known of layers.
        link: one of the user's, besides LAN and WAN.
        is_own: whether the calibrations are the user's: then they must have a layer of some model.

    Raises:
        ValueError: they are not CHEETAH's, or the user's have no layer of any model.
    """
    protocol = calibrations.first.protocol
    if protocol != "cheetah":
        raise ValueError(
            f"calibrations of {protocol} ({MEANING[protocol]}); expected ones of cheetah: raysp pi calibrate --protocol cheetah"
        )

    def outline(record: Mapping[str, Any]) -> Network:
        return load_outline(runs.roots[record["key"]] / "stages" / label_of(record))

    found = predict_records(runs.records, calibrations, outline)
    if is_own and (found.rows or found.untold) and not found.has_measured:
        families = "; ".join(", ".join(f"{k} {v}" for k, v in c.family.items()) for c in calibrations.named.values())
        models = sorted({_said(row) for record in runs.records for row in record["rows"]})
        raise ValueError(
            f"--calibration {' '.join(calibrations.named)} has no layer of any model here: it is of {families or 'no family'}, "
            f"and the models are {'; '.join(models)[:300]}; make one of theirs: raysp pi calibrate with their --model, --width, "
            "--image-size, --in-channels and --num-classes"
        )
    own = link if seconds_column(link) == OF_LINK else None
    links = tuple(known for known in (*LINKS.values(), own) if known)
    return Foretold(
        columns={which: _columns(row, own) for which, row in found.rows.items()},
        layers={which: row.layers for which, row in found.rows.items()},
        links=links,
        notes=_notes(found, calibrations, links),
    )


def _said(row: Mapping[str, Any]) -> str:
    return f"{row.get('model')}, width {row.get('width')}, {row.get('image_size')} pixels"


def _columns(row: Row, link: Link | None) -> dict[str, Any]:
    """A row's predicted columns; the link is the user's, if it has none of its own."""
    costs, over = row.costs, LINKS | ({} if link is None else {OF_LINK: link})
    told = {"time_s": costs.time_s, "num_bytes": costs.bytes, "round_trips": costs.round_trips}
    return {
        **{column: seconds_over(one, **told) for column, one in over.items()},
        **{column: getattr(costs, cost) for column, cost in COUNTED.items()},
        "pred_from": Path(row.layers.calibration).name,
        "pred_fitted": row.layers.fitted,
        **({} if link is None else {"pred_link": link.name}),
    }


def _notes(found: Predictions, calibrations: Calibrations, links: Sequence[Link]) -> tuple[str, ...]:
    notes = []
    if found.rows:
        machine = calibrations.first.machine
        where = f"{machine.get('processor', 'an unknown processor')}, {machine.get('cpus', '?')} cores"
        said = ", ".join(f"{one.name} {one.bits_per_s / 1e6:g} Mbit/s and {one.round_trip_s * 1e3:g} ms" for one in links)
        notes.append(
            f"Predicted, not measured: one warm image under CHEETAH, both parties on one machine ({where}); over a link at most "
            f"so much ({said})."
        )
        if busy := disturbed(calibrations.others_cores):
            notes.append(f"When the layers were measured, {busy}.")
    for kind, shapes in sorted(_by_kind(found.fitted).items()):
        error = calibrations.error(shapes[0])
        notes.append(f"Fitted, because no calibration has them: {_named(shapes)}.")
        if error:
            notes.append(f"Of {error.layers} measured {kind} layers, each left out in turn, the fit was off in {_off(error)}.")
    notes += [f"Not predicted: {name}: {reason}." for name, reason in list(found.untold.items())[:NAMED]]
    if len(found.untold) > NAMED:
        notes.append(f"Not predicted: {len(found.untold) - NAMED} more.")
    return tuple(notes)


def _by_kind(shapes: set[str]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for shape in sorted(shapes):
        kinds.setdefault(shape.split()[0], []).append(shape)
    return kinds


def _named(shapes: list[str]) -> str:
    more = f" and {len(shapes) - NAMED} more" if len(shapes) > NAMED else ""
    return "; ".join(shapes[:NAMED]) + more


def _off(error: Error) -> str:
    return (
        f"bytes by {error.bytes_median:.0%} (median; at most {error.bytes_largest:.0%}), in seconds by {error.time_median:.0%} "
        f"(at most {error.time_largest:.0%})"
    )
