"""The grids behind the tables and figures of "Making Models Shallow Again" (CVPR-W 2023).

`table1` trains each of its models with and without gated branching, `table2` those with an auxiliary classifier, `fig1` the
models that it compares, `fig2` the masks whose layers it draws (they are in layers.csv). With --preset the same grid is trained
on that preset's data and recipes, for networks as narrow as its own and budgets in the same proportion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from raysp.methods.choices import Choice
from raysp.stages.presets import PRESETS, PresetName
from sweeps.cli import main as run_command
from sweeps.flags import RunFlags

if TYPE_CHECKING:
    from raysp.stages.chain import ChainBuilder
    from raysp.store.stage import Stage
    from sweeps.running import Work

GridName = Literal["table1", "table2", "fig1", "fig2"]

R18_C10: PresetName = "paper-resnet18-cifar10"
R18_C100: PresetName = "paper-resnet18-cifar100"
WRN_C100: PresetName = "paper-wrn22-8-cifar100"

GRIDS: Mapping[GridName, Sequence[tuple[PresetName, Choice]]] = {
    "table1": [
        (preset, Choice(budget=budget, d_th=d_th))
        for preset, budget, threshold in (
            (R18_C10, 82_000, 0.1),
            (R18_C100, 24_900, 0.05),
            (R18_C100, 49_600, 0.05),
            (WRN_C100, 240_000, 0.1),
        )
        for d_th in (None, threshold)
    ],
    # The table gives neither budgets nor thresholds; see `raysp.stages.presets`. One model has both exits.
    "table2": [
        (R18_C10, Choice(budget=150_000, d_th=0.1, ac_after=(3,))),
        (R18_C100, Choice(budget=100_000, d_th=0.05, ac_after=(3,))),
    ],
    "fig1": [
        (R18_C100, Choice(budget=100_000, d_th=None)),
        (R18_C100, Choice(budget=100_000, d_th=0.05, ac_after=(3,))),
    ],
    "fig2": [
        (R18_C100, Choice(budget=100_000, mask_method="snl")),
        *((R18_C100, Choice(budget=budget)) for budget in (25_000, 49_500, 100_000)),
    ],
}
"""Each grid's configurations, with the preset that they belong to. Budgets are of networks of full width at 32x32."""


@dataclass(frozen=True, kw_only=True)
class PaperFlags:
    """A grid, and where to train it."""

    grid: Positional[GridName]
    """Which table or figure."""
    preset: Annotated[PresetName | None, arg(help_behavior_hint="(default: the paper's own)")] = None
    """Train it on this preset's data and recipes; `quick` takes minutes on two CPU cores."""
    run: RunFlags


def prepare(flags: PaperFlags) -> "Work":
    """The grid's stages, and the data that they read."""
    from raysp.stages.chain import ChainBuilder  # torch takes seconds to import
    from raysp.stages.predictable import check_predicted
    from sweeps.running import Work
    from sweeps.weighing import weighing_of

    weighing = weighing_of(flags.run, None)
    grid = GRIDS[flags.grid]
    presets = {name: PRESETS[flags.preset or name] for name, _ in grid}
    opened = {preset.name: flags.run.open(preset) for preset in presets.values()}
    sources = {source.config: source for source in opened.values()}  # two presets may read one data set
    leaves: list[Stage] = []
    for name, choice in grid:
        builder = ChainBuilder(
            presets[name],
            opened[presets[name].name].config,
            model=PRESETS[name].model,
            width=flags.run.width,
            epochs_scale=flags.run.epochs_scale,
            precision=flags.run.precision,
        )
        seeds = flags.run.seeds or (0,)  # seed 0 where none was given
        choices = [scaled_choice(choice, PRESETS[name].model, seed) for seed in seeds]
        check_predicted(builder.network, weighing, choices)
        leaves += [_leaf(flags.grid, builder, one) for one in choices]
    return Work(leaves=leaves, sources=list(sources.values()), name=flags.preset or "paper", weighing=weighing)


def scaled_choice(choice: Choice, model: str, seed: int) -> Choice:
    """A configuration with its budget as a share of the model's ReLUs at full size, so that any width can have it."""
    import torch

    from raysp.models import build_model

    with torch.device("meta"):
        full_size = build_model(model, num_classes=2).num_relus()
    return replace(choice, budget=choice.budget / full_size, seed=seed)


def _leaf(grid: GridName, builder: "ChainBuilder", choice: Choice) -> "Stage":
    return builder.mask(choice) if grid == "fig2" else builder.chain(choice)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse, train, exit; see `sweeps.cli.main`."""
    run_command(PaperFlags, prepare, __doc__ or "", arguments, prog)


if __name__ == "__main__":
    main()
