"""The measurements behind the choice of defaults, over seeds: masks side by side, and starts of shallow branches.

`masks` trains every mask method at every budget and says what the student is worth right after, and how much of the mask each
update changed. `starts` fine-tunes gated students from random and from least-squares branches, for half and for all of the
preset's epochs. `rankings` ranks a network's ReLUs in several ways, and trains each way's mask from the teacher's weights, to
tell what of a walk counts. Stages are found when it is run again; what `rankings` trains beyond the baseline isn't.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from raysp.data.sources import Source, load_splits, open_source
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.engine.workers import ALONE
from raysp.methods.choices import Choice, MaskMethod
from raysp.methods.distillation import StudentTask
from raysp.methods.ranking import ranked_masks
from raysp.methods.walk import WalkTask
from raysp.stages.chain import ChainBuilder
from raysp.stages.finetune import FinetuneConfig
from raysp.stages.presets import PRESETS, Preset, PresetName
from raysp.stages.ranking import RankingConfig
from raysp.store.records import WEIGHTS, Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import load_tensors
from raysp.training.batches import Batches
from raysp.training.loop import accuracy, train

METHODS: tuple[MaskMethod, ...] = ("random", "senet", "counterfactual", "snl")
console = Console(width=150, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure, on what."""

    what: tyro.conf.Positional[Literal["masks", "starts", "rankings"]]
    preset: PresetName = "quick"
    dataset: str | None = None
    """As `--dataset` of the sweeps; by default the preset's."""
    image_size: int | None = None
    width: int | None = None
    epochs_scale: float = 1.0
    budgets: tuple[float, ...] = (0.05, 0.1)
    """For `starts` and `rankings` the last one counts."""
    d_th: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2)
    """For `rankings` the first one counts."""
    epochs: int = 6
    """Of a mask's training, for `rankings`."""
    variants: tuple[str, ...] = ()
    """Of `rankings`; by default all."""
    storage: Path = Path("runs/evidence")

    def builder(self, source: Source, **changes: Any) -> ChainBuilder:
        """Chains of the preset, with changes to it."""
        preset: Preset = dataclasses.replace(PRESETS[self.preset], **changes)
        return ChainBuilder(preset, source.config, width=self.width, epochs_scale=self.epochs_scale)


def masks(flags: Flags, source: Source) -> None:
    """Train the masks and print what they are worth."""
    make = flags.builder(source).mask
    grid = {
        (budget, method): [make(Choice(budget=budget, mask_method=method, seed=seed)) for seed in flags.seeds]
        for budget in flags.budgets
        for method in METHODS
    }
    records = run(flags, source, grid)
    table = Table(
        "ReLUs", "method", "val %", "test %", "test % by seed", "of the mask changed, per update", "SNL's count", box=None
    )
    for of_seeds in records.values():
        first = of_seeds[0]["config"]
        changed = [[f"{h['mask_changed']:.0%}" for h in r["history"] if h.get("mask_changed")] for r in of_seeds]
        counts = [str(h["snl_count"]) for h in of_seeds[0]["history"] if "snl_count" in h]
        test = [r["metrics"]["test_accuracy"] for r in of_seeds]
        table.add_row(
            str(first["budget"]),
            first["method"],
            spread(r["metrics"]["val_accuracy"] for r in of_seeds),
            spread(test),
            " ".join(f"{value:.1f}" for value in test),
            "; ".join(" ".join(of_seed) for of_seed in changed),
            " ".join(counts),
        )
    console.print(table)


def starts(flags: Flags, source: Source) -> None:
    """Fine-tune from both starts, with and without a ramp of the gate, and print every epoch."""
    whole = PRESETS[flags.preset].finetune
    half = dataclasses.replace(whole, epochs=whole.epochs // 2 + 1)
    grid: dict[Any, list[Stage]] = {}
    for recipe in (half, whole):
        builder = flags.builder(source, finetune=recipe)
        epochs = recipe.scaled(flags.epochs_scale).epochs
        ramp = round(0.4 * epochs)
        for start, gate_epochs in (("random", ramp), ("least-squares", ramp), ("least-squares", 0)):
            choice = Choice(budget=flags.budgets[-1], d_th=flags.d_th, gb_init=start, gate_epochs=gate_epochs)  # type: ignore[arg-type]
            grid[epochs, start, gate_epochs] = [builder.chain(dataclasses.replace(choice, seed=s)) for s in flags.seeds]
    plain = Choice(budget=flags.budgets[-1])
    grid[epochs, "no gating", 0] = [builder.chain(dataclasses.replace(plain, seed=s)) for s in flags.seeds]
    records = run(flags, source, grid)
    table = Table("epochs", "start", "ramp", "untrained, gates at 1", "val % after each epoch", "val %", "test %", "R²", box=None)
    for (epochs, start, gate_epochs), of_seeds in records.items():
        by_epoch = zip(*(r["history"] for r in of_seeds), strict=True)
        gated = "start_val_accuracy" in of_seeds[0]["metrics"]
        fits = [value for r in of_seeds for value in r["metrics"].get("fit_r2", {}).values()]
        table.add_row(
            str(epochs),
            start,
            str(gate_epochs),
            spread(r["metrics"]["start_val_accuracy"] for r in of_seeds) if gated else "-",
            " ".join(f"{statistics.mean(h['val_accuracy'] for h in epoch):.1f}" for epoch in by_epoch),
            spread(r["rows"][0]["val_accuracy"] for r in of_seeds),
            spread(r["rows"][0]["test_accuracy"] for r in of_seeds),
            f"{min(fits):.2f} to {max(fits):.2f}" if fits else "-",
        )
    console.print(table)


class NoWayBack(WalkTask):
    """What has gone stays away."""

    def _choose(self) -> None:
        for layer, score in zip(self._layers, self._score, strict=True):
            score.masked_fill_(~layer.relu.mask, -1.0)
        super()._choose()


class WithoutGradient(WalkTask):
    """By relu(-x) alone: how much a value changes, not what that does to the loss."""

    def begin_epoch(self, epoch: int) -> None:
        """Add up in the forward pass instead of the backward one."""
        super().begin_epoch(epoch)
        for layer, fresh in zip(self._layers, self._fresh, strict=True):
            layer.relu.score = None
            if epoch == 0:
                layer.relu.register_forward_pre_hook(partial(self._add, fresh))

    def _add(self, fresh: torch.Tensor, relu: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if self.model.training:
            fresh += inputs[0].detach().clamp(max=0.0).neg().mean(dim=0)


class PerLayer(WalkTask):
    """The same share of every layer, the best of each."""

    def _choose(self) -> None:
        whole = self._score
        self._score = [(s.argsort().argsort() / s.numel()) for s in map(torch.flatten, whole)]
        self._score = [s.view_as(w) for s, w in zip(self._score, whole, strict=True)]
        super()._choose()
        for score, ranked in zip(whole, self._score, strict=True):
            score.copy_(ranked)  # what left, left by its rank
        self._score = whole


VARIANTS: dict[str, tuple[type[WalkTask], dict[str, Any]]] = {
    "frozen": (WalkTask, {}),
    "frozen, other images first": (WalkTask, {}),
    "frozen, one image of four": (WalkTask, {"every": 4}),
    "frozen, one cut": (WalkTask, {"rounds": 1}),
    "frozen, no way back": (NoWayBack, {}),
    "frozen, without the gradient": (WithoutGradient, {}),
    "frozen, the same share of every layer": (PerLayer, {}),
    "taylor": (WalkTask, {"trains": True}),
    "taylor, one image of four": (WalkTask, {"trains": True, "every": 4}),
}
"""Ways to rank, and what of a walk's settings each changes."""


def rankings(flags: Flags, source: Source) -> None:
    """Rank in several ways; say how alike the masks are, and what each is worth when trained from the teacher's weights."""
    builder = flags.builder(source)
    leaf = builder.chain(Choice(budget=flags.budgets[-1], mask_method="taylor", seed=flags.seeds[0]))
    baseline, config = leaf.parents["baseline"], leaf.parents["ranking"].config
    assert isinstance(config, RankingConfig) and isinstance(leaf.config, FinetuneConfig) and leaf.config.budget
    run(flags, source, {"baseline": [baseline]})
    batches = Batches(source.config, load_splits(source), torch.device("cpu"))
    torch.set_num_threads(1)
    state = load_tensors(Store(root=flags.storage.absolute()).directory(baseline) / WEIGHTS)
    experiment = config.experiment
    first: list[torch.Tensor] = []
    table = Table("ranking", "epochs", "as the first, %", "val % after each epoch", "test %", box=None)
    for name in flags.variants or VARIANTS:
        task_type, changes = VARIANTS[name]
        trains = changes.get("trains", False)
        recipe = config.recipe if trains else dataclasses.replace(config.recipe, epochs=1)
        student = experiment.build("ranking")
        student.load_state_dict(state)
        teacher = experiment.teacher(state, torch.device("cpu"))
        settings: dict[str, Any] = {"kl_weight": 0.5, "rho": 4.0, "granularity": "pixel", "floor": config.floor, "rounds": 40}
        settings |= {"carry": 0.25, "steps_per_epoch": batches.num_batches(recipe.batch_size), "trains": False} | changes
        task = task_type(student, teacher, **settings, falling_epochs=recipe.epochs, epochs=recipe.epochs)
        train(task, recipe, experiment.seed + ("other" in name), batches, NOWHERE)
        masks = ranked_masks(task.ranks(), [layer.relu.shape for layer in student.relu_layers()], leaf.config.budget)
        first = first or masks
        alike = sum(int((a & b).sum()) for a, b in zip(first, masks, strict=True)) / leaf.config.budget
        student = experiment.build("mask")
        student.load_state_dict(state)
        for layer, mask in zip(student.relu_layers(), masks, strict=True):
            layer.relu.set_mask(mask)
        chosen = dataclasses.replace(leaf.config.recipe, epochs=flags.epochs)
        pupil = StudentTask(student, teacher, kl_weight=leaf.config.kl_weight, rho=leaf.config.rho)
        trained = train(pupil, chosen, experiment.seed, batches, NOWHERE)
        student.load_state_dict(trained.best_state)
        val = " ".join(f"{h['val_accuracy']:.1f}" for h in trained.history)
        line = [name, str(recipe.epochs), f"{100 * alike:.0f}", val, f"{accuracy(student, batches, 'test')['final']:.1f}"]
        console.print(" | ".join(line))
        table.add_row(*line)
    console.print(table)


class _Nowhere:
    """A context that keeps nothing, on the CPU."""

    device = torch.device("cpu")
    workers = ALONE
    compile = "off"
    uses_graph = False
    sync_batchnorm = False

    def pauses_after(self, epoch: int) -> bool:
        return False

    def pause_if_due(self, history: Any, costs: Any) -> None:
        pass

    def load_checkpoint(self) -> None:
        return None

    def save_checkpoint(self, tensors: Any, state: Any) -> None:
        pass

    def report(self, figures: Any) -> None:
        pass


NOWHERE: Any = _Nowhere()


def run(flags: Flags, source: Source, grid: Mapping[Any, list[Stage]]) -> dict[Any, list[dict[str, Any]]]:
    """Train a grid's stages; return their records."""
    root = flags.storage.absolute()
    leaves = [stage for of_seeds in grid.values() for stage in of_seeds]
    outcome = run_sweep(leaves, root, [source], RunOptions(inline=True), labels={"preset": flags.preset}, console=console)
    assert outcome.ok, outcome.failed
    store = Store(root=root)
    return {key: [record for stage in of_seeds if (record := store.read(stage))] for key, of_seeds in grid.items()}


def spread(values: Iterable[float]) -> str:
    """Mean and standard deviation."""
    found = list(values)
    return f"{statistics.mean(found):.1f} ± {statistics.stdev(found) if len(found) > 1 else 0:.1f}"


if __name__ == "__main__":
    given = tyro.cli(Flags, description=__doc__)
    opened = open_source(given.dataset or PRESETS[given.preset].dataset, given.image_size, Path("data"))
    {"masks": masks, "starts": starts, "rankings": rankings}[given.what](given, opened)
