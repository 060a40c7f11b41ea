"""The paper's tables at full size in the seconds that a rental has left: the part `sweep` of `gpu.py`.

Three budgets of the paper's on CIFAR-100, ResNet18 of its full width, by the preset `cifar100` as it is: one ranking for all,
gated blocks, early exits fitted; its epochs scaled to the time: every kind of stage is tried first
(`raysp.engine.calibration`), then the largest scale that fits is trained. One stage after the other: a recorded step of this
width keeps the GPU busy by itself, so that stages beside one another would only share it. Owns the choice of the scale, and
what is kept as it goes. Contract: when the time is over the training is told to end, and what is done is in the tables, and as
records without weights in `sweep.tar.xz`.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_rental import Found, Rental, ended_by

if TYPE_CHECKING:
    from raysp.stages.chain import ChainBuilder
    from raysp.store.stage import Stage

SCRIPT = Path(__file__).name
REPORT_S = 25.0
"""Seconds of the end for tables and pictures."""
STOP_S = 8.0
"""Seconds in which a training that is told to end saves itself."""
MARGIN = 0.08
"""Share of the time that is planned for nothing: checkpoints take up to 0.05, and forecasts err."""
LEAST_S = 20.0
"""Seconds below which no sweep is started."""
SCALES = [number / 100 for number in range(5, 601)]
"""Of the preset's epochs."""


def the_sweep(rental: Rental) -> None:
    """Train, keep every finished stage at once, and report."""
    if rental.settings["device"] == "cuda" and not rental.settings["data"]:
        rental.log("no sweep without --data")
        return
    seconds = min(rental.left - REPORT_S, rental.settings["sweep_s"])
    if seconds < LEAST_S:
        rental.log(f"no sweep in {seconds:.0f} s")
        return
    folder = Path(tempfile.mkdtemp(prefix="raysp-sweep-"))
    try:
        _Watched(rental, folder, seconds).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Watched:
    """A sweep in a process of its own, and what is known of it.

    Args:
        rental: keeps what is found.
        folder: for records, weights and what the processes say.
        seconds: until the training is told to end.
    """

    def __init__(self, rental: Rental, folder: Path, seconds: float) -> None:
        self._rental, self._folder, self._seconds = rental, folder, seconds
        self._root = folder / "records"
        self._heard = 0
        self._seen: set[str] = set()
        self._reporting: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """From the start to the last table."""
        rental, started = self._rental, time.monotonic()
        rental.log(f"[{rental.at:5.0f} s] sweep, {self._seconds:.0f} s")
        told = ""
        with (self._folder / "said.jsonl").open("w") as said, (self._folder / "log.txt").open("w") as log:
            settings = {"root": str(self._root), "seconds": self._seconds}
            process = rental.start("train", settings, script=SCRIPT, stdout=said, stderr=log)
            ended = ended_by(process, self._seconds + STOP_S)
            try:
                while process.poll() is None:
                    self._look()
                    if not told and time.monotonic() - started > self._seconds:
                        told = ", told to end: out of time"
                        process.terminate()
                    time.sleep(0.25)
            finally:
                ended()
        self._look()
        rental.log((self._folder / "log.txt").read_text()[-6000:])
        rental.log(f"[{rental.at:5.0f} s] the sweep ended with status {process.returncode}{told}")
        rental.keep(sweep_ended=process.returncode, seconds=time.monotonic() - started, told=bool(told))
        self._report(wait=True)

    def _look(self) -> None:
        """Keep what is new."""
        lines = (self._folder / "said.jsonl").read_text().split("\n")[:-1]
        for line in lines[self._heard :]:
            self._rental.keep(**(json.loads(line) if line.startswith("{") else {"said": line}))
        self._heard = len(lines)
        new = [path for path in sorted(self._root.glob("stages/*/record.json")) if path.parent.name not in self._seen]
        for path in new:
            self._seen.add(path.parent.name)
            self._rental.keep(trained=_told(json.loads(path.read_text())))
        if new:
            self._pack()
        if any(path.parent.name.startswith("finetune") for path in new):
            self._report(wait=False)

    def _report(self, *, wait: bool) -> None:
        """Tables and pictures of what is done; beside the training in a process that doesn't touch the GPU."""
        if self._reporting is not None:
            if not wait and self._reporting.poll() is None:
                return
            self._reporting.wait()
        if not self._seen:
            self._pack()
            return
        log = (self._folder / "report.txt").open("w")
        settings = {"root": str(self._root), "out": str(self._folder / "report")}
        self._reporting = self._rental.start("report", settings, script=SCRIPT, stdout=log, stderr=log)
        log.close()
        if wait:
            try:
                self._reporting.wait(max(1.0, self._rental.left))
            except subprocess.TimeoutExpired:
                self._reporting.kill()
            self._rental.log((self._folder / "report.txt").read_text()[-1000:])
            for name in ("results.csv", "pareto.png"):
                if (self._folder / "report" / name).exists():
                    shutil.copy(self._folder / "report" / name, self._rental.out / name)
            self._pack()

    def _pack(self) -> None:
        """Everything but weights."""
        whole = self._rental.out / "sweep.tar.xz"
        part = whole.with_name(".sweep.part")
        with tarfile.open(part, "w:xz") as archive:
            for path in sorted(self._folder.rglob("*")):
                if path.is_file() and not path.name.startswith((".", "checkpoint.", "weights.")):
                    archive.add(path, Path("sweep") / path.relative_to(self._folder))
        part.replace(whole)


def _told(record: Found) -> Found:
    """What a table says of a finished stage."""
    config, metrics = record["config"], record["metrics"]
    told = {"stage": record["stage"], "epochs": len(record["history"]), "time_s": record["time_s"], "rows": record["rows"]}
    told |= {name: config[name] for name in ("budget", "method") if name in config}
    return told | {name: metrics[name] for name in ("gated_blocks", "fit_r2", "test_accuracy", "relus") if name in metrics}


def train(settings: Found) -> None:
    """Choose the scale, and train; in a process of its own. Being told to end is status 143, however early."""
    from raysp.engine import termination

    termination.install()
    try:
        sys.exit(_train(settings))
    except termination.Terminated:
        sys.exit(143)


def _train(settings: Found) -> int:
    """The exit status."""
    started = time.monotonic()
    from rich.console import Console

    from raysp.data.sources import open_source
    from raysp.engine.calibration import calibrate
    from raysp.engine.options import RunOptions
    from raysp.engine.sweep import run_sweep
    from raysp.planning.plan import Plan
    from raysp.stages.chain import ChainBuilder
    from raysp.stages.presets import PRESETS

    _say(paper=_published(settings["preset"]))
    on_gpu = settings["device"] == "cuda"
    preset = PRESETS[settings["preset"]]
    name = f"imagefolder:{settings['data']}" if settings["data"] else preset.dataset
    opening = time.monotonic()
    source = open_source(name, settings["image_size"], Path("data"), preset.selection)
    decoding_s = 2.0 * (time.monotonic() - opening)  # of the same files, later

    def builder(scale: float) -> ChainBuilder:
        width, precision = settings["width"], settings["precision"]
        return ChainBuilder(preset, source.config, width=width, epochs_scale=scale, precision=precision)

    options = RunOptions(
        inline=True, gpus_per_stage=1.0 if on_gpu else 0.0, cuda_graph="on" if on_gpu else "off", threads_per_stage=1
    )
    tried = calibrate(
        Plan(leaves_of(builder(1.0), settings)),
        [source],
        num_threads=1,
        gpus=float(on_gpu),
        cuda_graph=options.cuda_graph,
    )
    rates = list(tried.rates.values())
    left = settings["seconds"] - (time.monotonic() - started) - decoding_s

    def forecast(scale: float) -> float:
        stages = Plan(leaves_of(builder(scale), settings)).stages.values()
        return sum(rate.of(stage) for rate, stage in zip(rates, stages, strict=True))

    scale = settings["epochs_scale"] or largest(forecast, (1.0 - MARGIN) * left)
    command = _command(settings, scale, name)
    kinds = [
        [stage.name, asdict(rate)]
        for stage, rate in zip(Plan(leaves_of(builder(1.0), settings)).stages.values(), rates, strict=True)
    ]
    _say(
        scale=scale,
        forecast_s=forecast(scale),
        seconds=left,
        rates=kinds,
        tried_s=time.monotonic() - started,
        command=command,
    )
    console = Console(file=sys.stderr, width=180)
    labels = {"preset": preset.name}
    leaves = leaves_of(builder(scale), settings)
    outcome = run_sweep(leaves, Path(settings["root"]), [source], options, labels=labels, console=console, command=command)
    for message in outcome.failed.values():
        _say(failed="sweep", error=message)
    return 0 if outcome.ok else 1


def largest(forecast: Any, seconds: float) -> float:
    """The largest of `SCALES` whose forecast fits; the smallest where none does. A larger scale never takes less."""
    low, high = 0, len(SCALES)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if forecast(SCALES[middle]) <= seconds else (low, middle)
    return SCALES[low]


def leaves_of(builder: "ChainBuilder", settings: Found) -> list["Stage"]:
    """A fine-tuning per budget, by the preset's own choices."""
    from raysp.methods.choices import Choice
    from raysp.stages.presets import PRESETS

    chosen = {field: values[0] for field, values in PRESETS[settings["preset"]].axes.items() if field != "budget"}
    return [builder.chain(Choice(budget=budget, **chosen)) for budget in settings["budgets"]]


def _command(settings: Found, scale: float, dataset: str) -> str:
    """What a user would say."""
    budgets = " ".join(f"{budget:g}" for budget in settings["budgets"])
    return (
        f"raysp sweep budget --preset {settings['preset']} --dataset {dataset} --image-size {settings['image_size']} "
        f"--width {settings['width']} --budgets {budgets} --precision {settings['precision']} --epochs-scale {scale:g} --inline"
        + (" --cuda-graph on" if settings["device"] == "cuda" else "")
    )


def _published(preset: str) -> list[Found]:
    """The paper's gated models of this data set's budgets."""
    try:
        from analysis.published import TABLE1, TABLE2
    except ImportError as error:
        _say(failed="the paper's figures", error=str(error))
        return []
    return [
        {name: getattr(row, name) for name in ("budget", "exit", "accuracy", "relus", "mac_saving", "depth")}
        for row in (*TABLE1, *TABLE2)
        if row.gated and row.dataset == preset and row.model == "resnet18"
    ]


def report(settings: Found) -> None:
    """Tables, pictures, and the page where what it needs is there."""
    from analysis.report import write_report

    try:
        write_report([Path(settings["root"])], Path(settings["out"]))
    except ModuleNotFoundError as error:  # the page is made last
        print(f"no report.html: {error}")


def _say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    {"train": train, "report": report}[sys.argv[1]](json.loads(sys.argv[2]))
