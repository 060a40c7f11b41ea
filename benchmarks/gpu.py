"""What raysp does on a GPU, in order of worth, within so many minutes: tests, a step's table, the paper's tables at full size.

    python benchmarks/gpu.py --out DIR --minutes 8 --data FOLDER
    python benchmarks/gpu.py --out DIR --rehearse

For a GPU that is rented for a quarter of an hour. Owns the order and the clock: each part is a process of its own
(`gpu_parts.py`, `gpu_sweep.py`) with a limit, and what has no time left is left out. Contract: whatever happens, what was found
so far lies in DIR: `results.jsonl` (every figure), `table.md` (what a person reads first), `log.txt` (what the parts said), of
the sweep also its tables and `sweep.tar.xz`. `--rehearse` does the same in miniature on a CPU. How to bring it there: `gpu.md`.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_packing
import gpu_sweep
from gpu_rental import ROOT, START_S, Found, Rental, environment

TESTS_S = 200.0
"""Seconds of the tests at most."""

REAL: Found = {
    "device": "cuda",
    "image_size": 32,
    "batch_size": 128,
    "images": 50_000,
    "eval_images": 10_000,
    "rounds": 5,
    "turn_s": 0.15,
    "loader_workers": 8,
    "tests_at_once": 4,
    "seconds": 4.0,
    "channels": [64, 16],
    "widths": [64, 16],
    "processes": [4, 8],
    "data": "",
    "preset": "cifar100",
    "width": 64,
    "precision": "bf16",
    "budgets": [24_900, 49_600, 100_000],
    "epochs_scale": None,
    "sweep_s": 3600.0,
}
MINIATURE: Found = REAL | {
    "device": "cpu",
    "image_size": 8,
    "batch_size": 8,
    "images": 40,
    "eval_images": 40,
    "rounds": 1,
    "turn_s": 0.01,
    "loader_workers": 0,
    "tests_at_once": 1,  # without a GPU they are skipped, and each process takes seconds for that
    "seconds": 0.2,
    "channels": [4],
    "widths": [4],
    "processes": [1, 2],
    "preset": "quick",
    "width": 4,
    "precision": "fp32",
    "budgets": [0.05, 0.1, 0.2],
    "sweep_s": 60.0,
}
"""What a rehearsal changes."""


def facts(rental: Rental) -> None:
    """What machine this is."""
    import torch

    found: Found = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    rental.keep(machine=found)


def the_tests(rental: Rental) -> None:
    """Run the tests that need a GPU; several at a time where that can be."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/training/test_cuda.py",
        "-q",
        "--tb=short",
        "--durations=5",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-o", "filterwarnings=default"]  # another torch's warnings are worth reading, and no reason to fail
    if subprocess.run([sys.executable, "-c", "import xdist"], capture_output=True, check=False).returncode == 0:
        command += ["-p", "xdist.plugin", "-n", str(rental.settings["tests_at_once"])]
    limit = min(TESTS_S, rental.left)
    rental.log(f"[{rental.at:5.0f} s] tests, at most {limit:.0f} s")
    with (rental.out / "tests.txt").open("w") as file:
        alone = environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever else that machine has
        process = subprocess.Popen(command, cwd=ROOT, env=alone, stdout=file, stderr=file, text=True)
        try:
            status: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            status = "out of time"
    said = (rental.out / "tests.txt").read_text()
    rental.log(said[-6000:])
    rental.keep(tests=said.strip().rpartition("\n")[2], status=status)


def steps(rental: Rental, groups: list[Found], limit_s: float, **settings: Any) -> None:
    """Measure groups of variants; what fails is left out, and the rest tried again."""
    groups = [group for number, group in enumerate(groups) if group not in groups[:number]]  # a rehearsal has but one width
    ends = time.monotonic() + limit_s
    while groups and (left := min(ends - time.monotonic(), rental.left - START_S)) > 0:
        before = len(rental.found)
        if rental.run("steps", {"groups": groups, **settings}, left):
            return
        news = rental.found[before:]
        done = {(found["step"][0], found["step"][1]) for found in news if "step" in found}
        tried = [found["trying"] for found in news if "trying" in found][-1:]
        groups = [group for group in groups if (group["width"], group["kind"]) not in done]
        for group in groups:
            group["variants"] = [v for v in group["variants"] if [group["width"], group["kind"], v] not in tried]
        if not tried:
            return


def group(width: int, kind: str, *variants: str) -> Found:
    """What `steps` measures in turns."""
    return {"width": width, "kind": kind, "variants": list(variants)}


def the_table(rental: Rental) -> None:
    """Eager and recorded steps in both precisions, of all kinds."""
    wide, narrow = max(rental.settings["widths"]), min(rental.settings["widths"])
    order = [(wide, "teacher"), (wide, "cross-entropy"), (narrow, "teacher"), (narrow, "teacher, 4 gates")]
    order += [(narrow, "cross-entropy"), (wide, "teacher, 4 gates")]
    steps(rental, [group(width, kind, "eager", "graph", "bf16", "bf16-graph") for width, kind in order], 90.0)


def the_kernels(rental: Rental) -> None:
    """What is in the way of the wide steps."""
    wide = max(rental.settings["widths"])
    traced = [{"width": wide, "kind": kind, "variant": "bf16-graph"} for kind in ("cross-entropy", "teacher")]
    rental.run("kernels", {"groups": traced}, 30.0)


def the_search(rental: Rental) -> None:
    """Wide steps with what cuDNN finds when it tries its algorithms."""
    wide = max(rental.settings["widths"])
    steps(rental, [group(wide, kind, "graph", "bf16-graph") for kind in ("teacher", "cross-entropy")], 40.0, cudnn_benchmark=True)


def the_compiler(rental: Rental) -> None:
    """Wide steps compiled, recorded or not."""
    if rental.settings["device"] != "cuda":
        return  # compiling takes minutes on a CPU
    wide, variants = max(rental.settings["widths"]), ("compile-bf16", "compile-bf16-graph")
    steps(rental, [group(wide, kind, *variants) for kind in ("teacher", "cross-entropy")], 150.0)


def the_plain_way(rental: Rental) -> None:
    """The step as one would first write it, as SNL's and RLNet's code does."""
    steps(rental, [group(width, "teacher", "plain") for width in rental.settings["widths"]], 40.0)


def the_relus(rental: Rental) -> None:
    """Ways to compute a masked ReLU, alone."""
    rental.run("relus", {}, 20.0)


def the_evaluation(rental: Rental) -> None:
    """The test part's accuracy."""
    rental.run("evaluation", {}, 15.0)


PARTS: dict[str, Callable[[Rental], None]] = {
    "tests": the_tests,
    "steps": the_table,
    "kernels": the_kernels,
    "search": the_search,
    "relus": the_relus,
    "compiler": the_compiler,
    "packing": gpu_packing.the_packing,
    "plain": the_plain_way,
    "evaluation": the_evaluation,
    "sweep": gpu_sweep.the_sweep,
}
"""In order of worth."""


def main() -> None:
    """Parse, run, and say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for what is found")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which everything is written")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="in the order given")
    parser.add_argument("--data", type=Path, help="image folder of the sweep: CIFAR-100 (`pack_images.py`)")
    parser.add_argument("--epochs-scale", type=float, help="of the sweep; by default the largest for which there is time")
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on a CPU")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    settings = dict(MINIATURE if given.rehearse else REAL)
    if given.data:
        settings["data"] = str(given.data.absolute())
    if given.epochs_scale is not None:
        settings["epochs_scale"] = given.epochs_scale
    rental = Rental(given.out, given.minutes, settings)
    try:
        facts(rental)
        for part in given.parts:
            if rental.left < START_S:
                rental.log(f"no time left for {part}")
            else:
                try:
                    PARTS[part](rental)
                except Exception as error:  # the other parts are worth something without it
                    rental.keep(failed=part, error=f"{type(error).__name__}: {error}")
    finally:
        print((rental.out / "table.md").read_text(), flush=True)
        print(f"{rental.at:.0f} s; everything is in {rental.out}")


if __name__ == "__main__":
    main()
