"""What a rental has found, for people: the table of `gpu.py`, as Markdown."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

import gpu_sweep

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
    return "\n".join([*lines, "", *gpu_sweep.lines(found)]) + "\n"
