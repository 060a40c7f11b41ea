"""What raysp does on a GPU, in order of worth, within so many minutes: tests, then a step's table.

    python benchmarks/gpu.py --out DIR --minutes 8
    python benchmarks/gpu.py --out DIR --rehearse

For a GPU that is rented for a quarter of an hour. Owns the order and the clock: each part is a process of its own
(`gpu_parts.py`) with a limit, and what has no time left is left out. Contract: whatever happens, what was found so far lies in
DIR: `results.jsonl` (every figure), `table.md` (what a person reads first), `log.txt` (what the parts said). `--rehearse` does
the same in miniature on a CPU.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent

START_S = 25.0
"""Seconds that a part takes at most before it measures anything, but for what it compiles."""

TESTS_S = 200.0
"""Seconds of the tests at most."""

GIVE_UP_S = 5.0
"""Seconds of the end that are kept for writing."""

Found = dict[str, Any]

REAL: Found = {
    "device": "cuda",
    "image_size": 32,
    "batch_size": 128,
    "images": 50_000,
    "eval_images": 10_000,
    "rounds": 5,
    "turn_s": 0.15,
    "loader_workers": 8,
    "seconds": 4.0,
    "channels": [64, 16],
    "widths": [64, 16],
    "processes": [4, 8],
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
    "seconds": 0.2,
    "channels": [4],
    "widths": [4],
    "processes": [1, 2],
}
"""What a rehearsal changes."""


class Rental:
    """One run: its clock, and what it has found.

    Args:
        out: where everything is written; made if need be.
        minutes: from now.
        settings: `REAL` or `MINIATURE`.
    """

    def __init__(self, out: Path, minutes: float, settings: Found) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.settings = out, settings
        self.started = time.monotonic()
        self.ends = self.started + 60.0 * minutes - GIVE_UP_S
        self.found: list[Found] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def keep(self, **found: Any) -> None:
        """Add a figure to what was found, and write it down at once."""
        found["at_s"] = round(time.monotonic() - self.started, 1)
        self.found.append(found)
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        (self.out / "table.md").write_text(table(self.found))

    def log(self, text: str) -> None:
        """Say something, and keep it."""
        print(text, flush=True)
        with (self.out / "log.txt").open("a") as file:
            file.write(text.rstrip("\n") + "\n")

    def start(self, part: str, settings: Found, **options: Any) -> "subprocess.Popen[str]":
        """Start a part in a process."""
        return subprocess.Popen(
            [sys.executable, str(HERE / "gpu_parts.py"), part, json.dumps(self.settings | settings)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
            **options,
        )

    def run(self, part: str, settings: Found, limit_s: float) -> bool:
        """Run a part to its end; keep what it finds. Returns whether it ended well.

        Args:
            part: its name in `gpu_parts.py`.
            settings: what it needs beyond the run's.
            limit_s: seconds that it may take; no more than are left.
        """
        errors = self.out / "errors.txt"
        limit = min(limit_s + START_S, self.left)
        self.log(f"[{time.monotonic() - self.started:5.0f} s] {part}, at most {limit:.0f} s")
        with errors.open("w") as stderr:
            process = self.start(part, settings, stderr=stderr)
            ended = ended_by(process, limit)
            assert process.stdout is not None
            for line in process.stdout:
                self.keep(**(json.loads(line) if line.startswith("{") else {"said": line.strip()}))
            process.wait()
            ended()
        said = errors.read_text()
        errors.unlink()
        if process.returncode:
            self.keep(failed=part, status=process.returncode, error=said[-1500:])
            self.log(f"{part} ended with status {process.returncode}:\n{said[-4000:]}")
        elif said:
            self.log(f"{part} said:\n{said[-1000:]}")
        return process.returncode == 0


def ended_by(process: "subprocess.Popen[str]", limit_s: float) -> Callable[[], None]:
    """Kill a process, and all that it has started, after so many seconds, or when what is returned is called."""

    def kill() -> None:
        timer.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(limit_s, 0.1), kill)
    timer.daemon = True
    timer.start()
    return kill


def environment() -> dict[str, str]:
    """Of a part: this checkout comes first."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]), "OMP_NUM_THREADS": "1"}


def facts(rental: Rental) -> None:
    """What machine this is."""
    import torch

    found: Found = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    rental.keep(machine=found)


def the_tests(rental: Rental) -> None:
    """Run the tests that need a GPU; four at a time where that can be."""
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
        command += ["-p", "xdist.plugin", "-n", "4"]
    limit = min(TESTS_S, rental.left)
    rental.log(f"[{time.monotonic() - rental.started:5.0f} s] tests, at most {limit:.0f} s")
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


def packing(rental: Rental, variant: str, label: str) -> None:
    """Steps a second that so many processes make together."""
    width, limit_s = min(rental.settings["widths"]), START_S + rental.settings["seconds"] + 4.0
    for number in rental.settings["processes"]:
        if rental.left < limit_s:
            return
        rental.log(f"[{time.monotonic() - rental.started:5.0f} s] {number} processes {label}, {variant}")
        settings = {"variant": variant, "width": width, "kind": "teacher, 4 gates"}
        processes = [rental.start("packed", settings, stdin=subprocess.PIPE) for _ in range(number)]
        ended = [ended_by(process, limit_s) for process in processes]
        ready = [json.loads(process.stdout.readline() or "{}") for process in processes if process.stdout]
        for process in processes:
            with suppress(BrokenPipeError):  # it has died, or was too slow
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
        rates = [json.loads(process.stdout.readline() or "{}").get("rate", 0.0) for process in processes if process.stdout]
        for process, cancel in zip(processes, ended, strict=True):
            process.wait()
            cancel()
        memory = max((found.get("memory_mib", 0) for found in ready), default=0)
        rental.keep(packed=[width, label, variant, number], steps_per_s=sum(rates), lost=rates.count(0.0), memory_mib=memory)


def table(found: list[Found]) -> str:
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
    return "\n".join(lines) + "\n"


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
    """Wide steps compiled, recorded or not, and with torch's own graphs."""
    if rental.settings["device"] != "cuda":
        return  # compiling takes minutes on a CPU
    wide, variants = max(rental.settings["widths"]), ("compile-bf16", "compile-bf16-graph")
    steps(rental, [group(wide, kind, *variants) for kind in ("teacher", "cross-entropy")], 150.0)
    steps(rental, [group(wide, "teacher", "cuda-graphs-bf16")], 60.0)


def the_packing(rental: Rental) -> None:
    """Several narrow trainings on one GPU, with MPS and without."""
    packing(rental, "graph", "without MPS")
    if rental.settings["device"] == "cuda":
        from raysp.engine import mps  # of this checkout, which need not be installed

        with mps.started() as found:
            rental.log(found.said)
            if found.is_on:
                packing(rental, "graph", "with MPS")
                packing(rental, "eager", "with MPS")


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
    "packing": the_packing,
    "plain": the_plain_way,
    "evaluation": the_evaluation,
}
"""In order of worth."""


def main() -> None:
    """Parse, run, and say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for what is found")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which everything is written")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="in the order given")
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on a CPU")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    rental = Rental(given.out, given.minutes, MINIATURE if given.rehearse else REAL)
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
        print(f"{time.monotonic() - rental.started:.0f} s; everything is in {rental.out}")


if __name__ == "__main__":
    main()
