"""What a rental has found, for people: the table of `gpu.py`, as Markdown."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

Found = dict[str, Any]


def table(found: Sequence[Found]) -> str:
    """All figures for people, as Markdown."""
    lines = [f"`{json.dumps(f['machine'])}`\n" for f in found if "machine" in f]
    lines += [f"Tests: {f['tests']} (status {f['status']})\n" for f in found if "tests" in f]
    measured = [f for f in found if "step" in f]
    if measured:
        lines += ["| width | step | variant | ms | images/s (spread) | steps/s |", "|---|---|---|---|---|---|"]
    for f in measured:
        width, kind, variant = f["step"]
        rates = [f["batch_size"] / s for s in f["seconds"]]
        middle = statistics.median(f["seconds"])
        spread = f"{f['batch_size'] / middle:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        lines.append(f"| {width} | {kind} | {variant} | {1e3 * middle:.2f} | {spread} | {1 / middle:.1f} |")
    lines += [""] + [
        f"{f['packed'][3]} processes, width {f['packed'][0]}, {f['packed'][1]}, {f['packed'][2]}: {f['steps_per_s']:.0f} steps/s "
        f"in all, {f['memory_mib']} MiB each" + (f", {f['lost']} lost" if f["lost"] else "")
        for f in found
        if "packed" in f
    ]
    for f in found:
        if "kernels" in f:
            lines += ["", f"Kernels of {f['kernels']}: {f['ms']:.2f} ms a step", "", "| ms | calls | kernel |", "|---|---|---|"]
            lines += [f"| {k['ms']:.3f} | {k['calls']:.0f} | `{k['name'][:110]}` |" for k in f["of"][:25]]
        elif "relus" in f:
            lines += ["", f"Masked ReLU, {f['relus']}, {f['bytes'] / 1e6:.1f} MB: " + ", ".join(
                f"{name} {us:.1f} us" for name, us in f["microseconds"].items()
            )]  # fmt: skip
        elif "evaluation" in f:
            lines += ["", f"Evaluation, width {f['evaluation']}: {f['images']} images in {min(f['seconds']):.3f} s"]
        elif "failed" in f:
            lines += ["", f"FAILED: {f['failed']}: `{str(f['error'])[-300:]}`"]
    return "\n".join([*lines, "", *sweep_lines(found)]) + "\n"


def sweep_lines(found: Sequence[Found]) -> list[str]:
    """The sweep for people, as Markdown: every exit of every budget beside the paper's figures."""
    trained = [f["trained"] for f in found if "trained" in f]
    rows = [row for f in trained for row in f["rows"]]
    told: list[str] = []
    for f in found:
        if "scale" in f:
            told.append(
                f"Sweep: {f['scale']:g} times the epochs of the preset, {f['forecast_s']:.0f} s by forecast, of "
                f"{f['seconds']:.0f} s that were left; `{f['command']}`"
            )
        elif "sweep_ended" in f:
            told.append(
                f"The sweep ended after {f['seconds']:.0f} s with status {f['sweep_ended']}" + ", out of time" * f["told"]
            )
    if not rows:
        return told
    base = next((row for row in rows if row["mask_method"] == "none"), None)
    printed = {(row["budget"], row["exit"]): row for f in found for row in f.get("paper", ())}
    spent = [f"{f['stage']}{' of ' + format(f['budget'], ',') if 'budget' in f else ''} {f['epochs']}" for f in trained]
    total = sum(f["time_s"] for f in trained)
    told += ["", f"Epochs (the paper's: 240, 240, 150 and 180): {', '.join(spent)}; {total:.0f} s in all", ""]
    told += [
        "| budget | exit | ReLUs | MACs | MACs saved | depth | val % | test % | paper: test % | ReLUs | MACs saved | depth |"
    ]
    told += ["|---" * 12 + "|"]
    for row in sorted(rows, key=lambda row: (row["mask_method"] != "none", row["budget"], -row["macs"])):
        is_base = row["mask_method"] == "none"
        theirs = printed.get((row["budget"], row["exit"]), {})
        saved = f"{base['macs'] / row['macs']:.2f}x" if base else ""
        cells = [
            "all" if is_base else f"{row['budget']:,}",
            row["exit"],
            f"{row['relus']:,}",
            f"{row['macs'] / 1e6:,.1f} M",
            saved,
        ]
        cells += [str(row["depth"]), f"{row['val_accuracy']:.2f}", f"{row['test_accuracy']:.2f}"]
        cells += [f"{theirs[n]:g}" if theirs.get(n) is not None else "" for n in ("accuracy", "relus", "mac_saving", "depth")]
        told.append("| " + " | ".join(cells) + " |")
    return told
