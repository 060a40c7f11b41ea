"""report.html: one page with all that it needs inside, which opens without a network.

Owns what goes into the page and its escaping. Plots are plotly's, the sortable table is DataTables' (as packaged by itables), the
page's own script (`web/page.js`) wires them. Contract: text from a record stays text; the page loads nothing from anywhere.
"""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from analysis.objectives import Objective, present
from analysis.pareto import GROUP, pareto_front
from analysis.predictions import Foretold
from analysis.published import published_beside
from analysis.records import Runs
from analysis.results import WHICH
from analysis.seeds import MEANS, SPREAD
from analysis.tables import ESCAPED, SHORT, Table, differing
from raysp.latency.tables import PartCosts
from raysp.store.records import label_of

RECORDS_PER_CHUNK = 50
"""Records are packed together: they resemble each other, and a click unpacks one pack."""
DECIMALS = 5
"""Of the numbers in learning curves."""


def build_page(
    *,
    runs: Runs,
    points: pd.DataFrame,
    ranks: "pd.Series[int]",
    accuracy: str,
    foretold: Foretold,
    tables: Mapping[str, Sequence[Table]],
    figures: Sequence[tuple[str, bytes]],
    still: tuple[str, bytes] | None,
    failures: Sequence[tuple[str, str, str]],
    skipped: Sequence[tuple[str, str, str]],
    note: str,
    title: str,
) -> bytes:
    """Make the page.

    Args:
        runs: the records behind it, and what was left out.
        points: a row per configuration and exit.
        ranks: their Pareto ranks.
        accuracy: what is on the y axis first.
        foretold: predicted costs, by layer.
        tables: sections of tables by their heading.
        figures: what to show as pictures: titles and SVG files.
        still: title and SVG of the front, for where the page's script can't run; None while there is nothing to draw.
        failures: label, note and error of stages that failed.
        skipped: label, note and failed ancestor of stages that wait for one.
        note: what must be known of all records; may be empty.
        title: what it is about.
    """
    import plotly.offline  # on a machine without it all but the page can be made

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_web("page.html"))
    chunks, chunk_of = _pack(runs.records)
    objectives, published = present(points), published_beside(points)
    data = {
        "objectives": [asdict(o) for o in objectives],
        "columns": _columns(points, objectives),
        "rows": _rows(points, ranks, objectives),
        "groups": [" · selected on ".join(map(str, group)) for group in _groups(points)],
        "fronts": _fronts(points, objectives),
        "published": [published.get(group, {}) for group in _groups(points)],
        "chunkOf": chunk_of,
        "y": accuracy,
        "means": list(MEANS),
        "predicted": _predicted(points, foretold),
    }
    page = template.render(
        title=title,
        note=note,
        style=_raw(_library("dt_bundle.css") + _web("page.css")),
        plotly=_raw(plotly.offline.get_plotlyjs()),
        datatables=_raw(_library("dt_bundle.js")),
        script=_raw(_web("page.js")),
        data=_raw(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
        chunks=chunks,
        tables=tables,
        figures=[_picture(*figure) for figure in figures],
        still=still and _picture(*still),
        failures=failures,
        skipped=skipped,
        damaged=[(str(d.path), d.reason) for d in runs.damaged],
    )
    return page.encode(errors=ESCAPED)


def _picture(title: str, svg: bytes) -> tuple[str, str]:
    return title, base64.b64encode(svg).decode()


def _groups(points: pd.DataFrame) -> list[tuple[str, str]]:
    return sorted({(str(one), str(other)) for one, other in points[list(GROUP)].dropna().itertuples(index=False)})


def _columns(points: pd.DataFrame, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """The page's columns: what every row of `_rows` holds. Those in which all models agree are there but hidden."""

    def column(name: str, heading: str, shown: bool) -> dict[str, Any]:
        return {"name": name, "heading": heading, "shown": shown}

    several = bool((points["seeds"] > 1).any())
    first = [column("group", "group", shown=False), column("key", "record", shown=True), column("exit", "exit", shown=True)]
    rare = ("params", "est_delphi_off", "class_spread", "pred_round", "pred_lan")
    costs = [column(o.column, o.short, shown=not o.column.startswith(rare)) for o in objectives]
    costs += [column("pi_protocol", "PI protocol", shown=True)] if "pi_protocol" in points else []
    costs += [
        column(name, name, shown=name == "pred_link") for name in ("pred_link", "pred_from", "pred_fitted") if name in points
    ]
    middle = [column("rank", "rank", shown=True), column("seeds", "seeds", shown=several)]
    names = [name for name in WHICH if name not in ("configuration", "exit")]
    telling = differing(points, names)
    which = [column(name, SHORT.get(name, name), shown=name in telling) for name in names]
    last = [column(name, name, shown=False) for name in (*SPREAD, "key_list", "seed_list")]
    return [*first, *costs, *middle, *which, *last]


def _rows(points: pd.DataFrame, ranks: "pd.Series[int]", objectives: Sequence[Objective]) -> list[list[Any]]:
    groups = {group: n for n, group in enumerate(_groups(points))}
    number = [groups.get((one, other), -1) for one, other in points[list(GROUP)].itertuples(index=False)]
    table = points.assign(group=number, rank=ranks)[[column["name"] for column in _columns(points, objectives)]]
    return [[_plain(value) for value in row] for row in table.astype(object).itertuples(index=False)]


def _fronts(points: pd.DataFrame, objectives: Sequence[Objective]) -> dict[str, list[list[int]]]:
    """For every pair of axes "x|y" and every group the row numbers of its front, by rising x."""
    numbered = points.reset_index(drop=True)
    groups = [numbered[(numbered[list(GROUP)] == list(group)).all(axis=1)] for group in _groups(points)]
    found = {}
    for x in objectives:
        for y in objectives:
            if x is not y:
                fronts = [pareto_front(rows, (y.column, x.column)).sort_values([x.column, y.column]) for rows in groups]
                found[f"{x.column}|{y.column}"] = [[int(n) for n in front.index] for front in fronts]
    return found


def _predicted(points: pd.DataFrame, foretold: Foretold) -> dict[str, Any]:
    """Links, what layers take that several models may share, and for each row of `_rows` which of these are its own."""
    numbers: dict[int, int] = {}
    shared: list[dict[str, Any]] = []
    of_rows: list[int | None] = []
    for key, exit_name in points[["key", "exit"]].itertuples(index=False):
        found = foretold.layers.get((key, exit_name))
        if found is not None and id(found) not in numbers:
            numbers[id(found)] = len(shared)
            relu = found.relu
            shared.append(
                {
                    "layers": [[name, costs and _three(costs)] for name, costs in found.costs],
                    "relu": [_three(relu.layer), _three(relu.relu + relu.renewal), relu.position_s],
                }
            )
        of_rows.append(None if found is None else numbers[id(found)])
    links = [[link.name, 8 / link.bits_per_s, link.round_trip_s] for link in foretold.links]
    return {"links": links, "shared": shared, "of": of_rows}


def _three(costs: PartCosts) -> list[float]:
    return [costs.time_s, costs.bytes, costs.round_trips]


def _pack(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, int]]:
    """Records in gzipped packs, as base64, and each one's pack by key."""
    order = sorted(records, key=lambda record: (record["stage"], record["key"]))
    packs = [order[start : start + RECORDS_PER_CHUNK] for start in range(0, len(order), RECORDS_PER_CHUNK)]
    with ThreadPoolExecutor() as pool:  # compression leaves Python to the others
        packed = list(pool.map(_packed, packs))
    return packed, {record["key"]: number for number, pack in enumerate(packs) for record in pack}


def _packed(records: Sequence[Mapping[str, Any]]) -> str:
    content = {r["key"]: {**r, "label": label_of(r), "history": [_rounded(epoch) for epoch in r["history"]]} for r in records}
    text = json.dumps(content, separators=(",", ":"), default=str)
    return base64.b64encode(gzip.compress(text.encode(errors=ESCAPED), mtime=0)).decode()


def _rounded(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, DECIMALS) if type(value) is float else value for name, value in epoch.items()}


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _web(name: str) -> str:
    return (resources.files("analysis") / "web" / name).read_text(encoding="utf-8")


def _library(name: str) -> str:
    return (resources.files("itables") / "html" / name).read_text(encoding="utf-8")


def _raw(text: str) -> Any:
    """Text that the template takes as it is; what would end its element early is broken up."""
    return markupsafe.Markup(text.replace("</script", "<\\/script").replace("</style", "<\\/style"))  # noqa: S704
