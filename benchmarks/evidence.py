"""The measurements behind the choice of defaults, over seeds: masks side by side, and starts of shallow branches.

`masks` trains every mask method at every budget and says what the student is worth right after, and how much of the mask each
update changed. `starts` fine-tunes gated students from random and from least-squares branches, for half and for all of the
preset's epochs. `fixed` takes the masks of `masks` and trains them as they are, from the teacher's weights, to tell the worth
of a mask from the worth of the way to it. Stages are found when it is run again; what `fixed` trains beyond them isn't.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
from raysp.methods.positions import top_positions
from raysp.methods.scores import StudentTask
from raysp.stages.chain import ChainBuilder
from raysp.stages.mask import MaskConfig
from raysp.stages.presets import PRESETS, Preset, PresetName
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

    what: tyro.conf.Positional[Literal["masks", "starts", "fixed"]]
    preset: PresetName = "quick"
    dataset: str | None = None
    """As `--dataset` of the sweeps; by default the preset's."""
    image_size: int | None = None
    width: int | None = None
    epochs_scale: float = 1.0
    budgets: tuple[float, ...] = (0.05, 0.1)
    """For `starts` the last one counts."""
    d_th: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2)
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


def fixed(flags: Flags, source: Source) -> None:
    """Train every method's last mask as it is for a whole mask stage, and SNL's counts per layer with random positions."""
    builder = flags.builder(source)
    stages = {
        (method, seed): builder.mask(Choice(budget=flags.budgets[-1], mask_method=method, seed=seed))
        for method in METHODS
        for seed in flags.seeds
    }
    run(flags, source, {key: [stage] for key, stage in stages.items()})
    batches = Batches(source.config, load_splits(source), torch.device("cpu"))
    torch.set_num_threads(1)
    table = Table("mask", "test %", box=None)
    for method, shuffled in [(method, False) for method in METHODS] + [("snl", True)]:
        found = []
        for seed in flags.seeds:
            control = stages["random", seed].config
            assert isinstance(control, MaskConfig)
            found.append(train_fixed(flags, stages[method, seed], control, batches, shuffled=shuffled))
        table.add_row(f"{method}{', positions shuffled within layers' if shuffled else ''}", spread(found))
    console.print(table)


def train_fixed(flags: Flags, stage: Stage, control: MaskConfig, batches: Batches, *, shuffled: bool) -> float:
    """Test accuracy of a student that keeps a finished mask from the first epoch on, by the control's recipe."""
    store = Store(root=flags.storage.absolute())
    experiment = control.experiment
    tensors = load_tensors(store.directory(stage) / WEIGHTS)
    teacher, student = experiment.build("baseline"), experiment.build("mask")
    teacher.load_state_dict(load_tensors(store.directory(stage.parents["baseline"]) / WEIGHTS))
    student.load_state_dict(teacher.state_dict())
    for layer in student.relu_layers():
        mask = tensors[f"{layer.name}.mask"]
        layer.relu.set_mask(top_positions(torch.rand(mask.shape), int(mask.sum())) if shuffled else mask)
    task = StudentTask(student, teacher, kl_weight=control.kl_weight, rho=control.rho)
    trained = train(task, control.recipe, experiment.seed, batches, _Nowhere())  # type: ignore[arg-type]
    student.load_state_dict(trained.best_state)
    return accuracy(student, batches, "test")["final"]


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


def run(flags: Flags, source: Source, grid: Mapping[Any, list[Stage]]) -> dict[Any, list[dict[str, Any]]]:
    """Train a grid's stages; return their records."""
    root = flags.storage.absolute()
    leaves = [stage for of_seeds in grid.values() for stage in of_seeds]
    outcome = run_sweep(leaves, root, [source], RunOptions(address="local"), labels={"preset": flags.preset}, console=console)
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
    {"masks": masks, "starts": starts, "fixed": fixed}[given.what](given, opened)
