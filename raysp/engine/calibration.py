"""How long a plan will take on this machine, from some steps of each kind of its stages.

Owns the choice of what is tried and the sum over the plan. Contract: nothing is written but in a temporary directory, and nothing
of the data is read: images are random, since time doesn't depend on them. An estimate: it counts one checkpoint a stage, leaves
the test part out, counts gating by a trial's few images, and takes as many blocks for gated as a short
training of one budget's mask gives.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Source, Splits, part_sizes
from raysp.engine.context import Place
from raysp.engine.inline import run_inline
from raysp.engine.options import CudaGraph
from raysp.engine.progress import Progress
from raysp.planning.plan import JobQueue, Plan
from raysp.store.keys import key_of
from raysp.store.records import Store
from raysp.store.stage import Stage

EPOCHS = 5
"""Of each trial: one that warms up, with closed gates; two with half-open gates; two with gates at 1. Of each two the second
counts, since a GPU records its step anew in the first (`raysp.training.replay`). So for SNL's search and its frozen mask."""
TRIAL_S = {False: 0.3, True: 0.5}
"""Seconds that an epoch of a trial is to take, if `FEWEST` images don't take longer; True on a GPU, where an epoch has more to do
beside its steps."""
FEWEST = {False: 16, True: 2048}
"""Images of a trial's epoch. A GPU takes as long for a few images as for a batch of them."""
CALM = 1e-3
"""Of its rate, a trial's fine-tuning has so much: classifiers that are fitted to noise would make it diverge. Other stages keep
theirs, since masks that are not trained at all lie elsewhere."""
ALIKE = ("budget", "density", "gamma", "sensitivity")
"""Fields of a configuration that change next to nothing of what its epochs cost."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds that stages of one kind take."""

    before: float
    """Of an epoch before its gates are at 1, or its mask is frozen."""
    after: float
    """Of an epoch from then on."""
    beside: float
    """Of all that is no epoch but the test part: weights read and written, branches started."""

    def of(self, stage: Stage) -> float:
        """Seconds of a whole stage."""
        before = _epochs_before(stage.config)
        return self.beside + before * self.before + (stage.epochs - before) * self.after


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Seconds of a plan's stages, one stage at a time."""

    seconds: Mapping[str, float]
    """By stage key."""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    """What they follow from, by stage key."""

    def of(self, stages: Iterable[Stage]) -> float:
        """Seconds of these stages together."""
        return sum(self.seconds[stage.key] for stage in stages)

    def chain(self, stages: Iterable[Stage]) -> float:
        """Seconds of the longest chain of these stages, which come ancestors first: less can't be waited."""
        longest: dict[str, float] = {}
        for stage in stages:
            before = max((longest.get(p.key, 0.0) for p in stage.parents.values()), default=0.0)
            longest[stage.key] = before + self.seconds[stage.key]
        return max(longest.values(), default=0.0)


def calibrate(
    plan: Plan, sources: Iterable[Source], *, num_threads: int, gpus: float, cuda_graph: CudaGraph = "auto"
) -> Calibration:
    """Try every kind of stage of a plan, and scale what it took to the whole plan.

    Args:
        plan: its stages must have an `experiment`, and those that train a `recipe`.
        sources: the data sets that they read.
        num_threads: CPU threads of a stage.
        gpus: 0 to compute on the CPU.
        cuda_graph: whether a GPU repeats a recorded step.
    """
    sizes = {key_of(source.config): part_sizes(source) for source in sources}
    kinds: dict[str, Stage] = {}
    for stage in plan.stages.values():
        kinds.setdefault(kind_of(stage), stage)
    tried: dict[str, Rate] = {}
    on_gpu = bool(gpus)
    with tempfile.TemporaryDirectory() as scratch:
        images = 0
        for kind, stage in kinds.items():
            if not images:  # few images tell how many take as long as they should
                whole = sizes[key_of(stage.config.experiment.data)]["train"]  # type: ignore[attr-defined]
                first = _try(stage, sizes, FEWEST[on_gpu], Path(scratch) / "first", num_threads, gpus, cuda_graph)
                images = max(FEWEST[on_gpu], round(TRIAL_S[on_gpu] * whole / first.after))
            tried[kind] = _try(stage, sizes, images, Path(scratch) / "all", num_threads, gpus, cuda_graph)
    rates = {key: tried[kind_of(stage)] for key, stage in plan.stages.items()}
    return Calibration(seconds={key: rates[key].of(stage) for key, stage in plan.stages.items()}, rates=rates)


def kind_of(stage: Stage) -> str:
    """The same for stages whose epochs cost about the same."""
    config = {name: value for name, value in stage.config.to_json().items() if name not in ALIKE}
    if "time_limit" in config:  # some blocks are gated, whatever the limit
        config["time_limit"] = None
    config["experiment"] = {name: value for name, value in config["experiment"].items() if name != "seed"}
    return json.dumps([stage.name, config], sort_keys=True)


def _epochs_before(config: Any) -> int:
    """Epochs of a stage until its steps are those that it ends with."""
    return int(config.updated_epochs if getattr(config, "snl", None) else getattr(config, "gate_epochs", 0))


def _try(
    stage: Stage,
    sizes: Mapping[str, Mapping[str, int]],
    images: int,
    root: Path,
    num_threads: int,
    gpus: float,
    cuda_graph: CudaGraph,
) -> Rate:
    """What whole epochs take, from epochs of fewer images.

    Args:
        stage: to be tried.
        sizes: images per part, by the data's key.
        images: to train on in an epoch, in smaller batches if need be; no more than there are.
        root: where the trials' results are; ancestors that are there already are found.
        num_threads, gpus, cuda_graph: see `calibrate`.
    """
    short = shortened(stage, images, {})
    config: Any = short.config
    data = config.experiment.data
    whole = sizes[key_of(data)]
    num = min(whole["train"], images)
    counts = {"train": num, "val": max(1, round(whole["val"] * num / whole["train"])), "test": 1}
    with Store(root=root).lock() as store:
        splits = {key_of(data): random_images(data, counts)}
        missing = [s for s in short.lineage() if store.read(s) is None]
        place = Place(store=store, num_threads=num_threads, gpus=gpus, cuda_graph=cuda_graph, splits=splits)
        outcome = run_inline(JobQueue(missing), place, Progress(missing, lambda: 1, Console(quiet=True)))
        if not outcome.ok:
            raise RuntimeError(f"{stage.label} can't be tried: {next(iter(outcome.failed.values()))}")
        record = store.read(short)
    assert record is not None
    return _rate(record, whole["train"] / num, changes=bool(_epochs_before(config)))


def _rate(record: Mapping[str, Any], times: float, *, changes: bool) -> Rate:
    """From a trial's record.

    Args:
        record: of `EPOCHS` epochs, or of none.
        times: a whole epoch is so many times one of them.
        changes: whether its steps change between two epochs.
    """
    spent = [epoch["time_s"] for epoch in record["history"]]
    _, _, before, _, after = (times * seconds for seconds in spent or [0.0] * EPOCHS)
    if not changes:
        before = after = (before + after) / 2
    whole = datetime.fromisoformat(record["finished"]) - datetime.fromisoformat(record["started"])
    return Rate(before=before, after=after, beside=max(0.0, whole.total_seconds() - sum(spent)))


def shortened(stage: Stage, images: int, known: dict[str, Stage], epochs: int = EPOCHS) -> Stage:
    """The stage with so many epochs of so many images, and all its ancestors with `EPOCHS` of them; gates are at 1 in the
    last two, and SNL's mask is frozen.

    Args:
        stage: any; one without a `recipe` trains nothing.
        images: of an epoch; batches are no larger.
        known: what was made before, by key, for ancestors that several stages share.
        epochs: of the stage itself.
    """
    if stage.key not in known:
        config: Any = stage.config
        changes: dict[str, Any] = {}
        if recipe := getattr(config, "recipe", None):
            size = min(images, recipe.batch_size)
            rate = recipe.lr * (CALM if stage.name == "finetune" else 1.0)
            changes["recipe"] = dataclasses.replace(recipe, epochs=epochs, batch_size=size, milestones=(), lr=rate)
        if getattr(config, "given", None):
            changes["given"] = None  # the stages behind it take as long with any weights
        if getattr(config, "gate_epochs", 0):
            changes["gate_epochs"] = epochs - 2
        if getattr(config, "snl", None):
            changes |= {"frozen_share": 2 / epochs} if stage.name == "mask" else {"falling_share": 1 - 2 / epochs}
        parents = {role: shortened(parent, images, known) for role, parent in stage.parents.items()}
        config = dataclasses.replace(config, **changes)
        known[stage.key] = dataclasses.replace(stage, config=config, epochs=epochs if recipe else 0, parents=parents)
    return known[stage.key]


def random_images(data: DataConfig, counts: Mapping[str, int]) -> Splits:
    """A data set of so many images per part."""
    random = np.random.default_rng(0)
    parts = {
        name: Part(
            images=random.integers(0, 256, (count, data.channels, data.image_size, data.image_size), dtype=np.uint8),
            labels=random.integers(0, data.num_classes, count),
        )
        for name, count in counts.items()
    }
    mean, std = [0.5] * data.channels, [0.25] * data.channels
    return Splits(train=parts["train"], val=parts["val"], test=parts["test"], mean=mean, std=std)
