"""The flags that a sweep can sweep, and every combination of their values.

Owns the axes: what is not given on the command line comes from the sweep, and what the sweep leaves open from the preset.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from raysp.methods.choices import AcHead, Choice, MaskMethod
from raysp.methods.positions import Granularity
from raysp.planning.proposals import STOPPED_SEARCH
from raysp.stages.chain import ChainBuilder
from raysp.stages.finetune import GateStart, Pram
from raysp.stages.mask import MaskStart
from raysp.stages.presets import PRESETS, Preset, PresetName
from raysp.training.recipes import GammaSchedule
from sweeps.cli import NOT_GIVEN, THE_PRESETS, RunFlags, Work, main
from sweeps.searching import draw, read_search

Nothing = Literal["none"]


def _several(metavar: str, default: str = "") -> Any:
    return arg(metavar=f"{metavar} ...", help_behavior_hint=f"(default: {default})" if default else THE_PRESETS)


@dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """Flags of a sweep over axes. Those that take several values are swept: every combination is a configuration."""

    preset: PresetName = "quick"
    """Data set, network, recipes and axes. `quick` takes minutes on two CPU cores; `paper-*` are the paper's, for a GPU."""
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=THE_PRESETS)] = None
    """`resnet18`, `resnet34`, `wrn22-8` or `vgg16`."""
    budgets: Annotated[tuple[float, ...], _several("RELUS")] = NOT_GIVEN
    """ReLUs to keep: units (24900), or shares of the network's ReLUs when below 1 (0.1)."""
    mask_method: Annotated[tuple[MaskMethod, ...], _several("METHOD", "senet")] = NOT_GIVEN
    """How masks are found: `senet` (the paper's), `counterfactual`, `snl`, or `random` as a control."""
    granularity: Annotated[tuple[Granularity, ...], _several("pixel|channel", "pixel")] = NOT_GIVEN
    """What a mask keeps or drops: single positions, or whole channels."""
    mask_start: Annotated[tuple[MaskStart, ...], _several("teacher|scratch", "teacher")] = NOT_GIVEN
    """The student's weights when its mask is first learned: the all-ReLU network's, or new ones."""
    density: Annotated[tuple[float, ...], _several("SHARE", "0.1")] = NOT_GIVEN
    """Share of the sparse twin's weights that are non-zero; a layer's sensitivity is 1 minus its own share."""
    sensitivity: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the sensitivity stage is trained)")] = (
        None
    )
    """Sensitivities of your own, as JSON: an object of ReLU layers' names and values, or a list in forward order."""
    d_th: Annotated[tuple[float | Nothing, ...], _several("SHARE|none")] = NOT_GIVEN
    """Gated branching's threshold: blocks whose inner ReLU keeps at most this share (0 to 1) become shallow; `none`: none."""
    gamma: Annotated[tuple[GammaSchedule, ...], _several("linear|cosine", "linear")] = NOT_GIVEN
    """How the gate grows from 0 to 1 over the epochs."""
    gate_epochs: Annotated[tuple[int, ...], _several("EPOCHS")] = NOT_GIVEN
    """Epochs of the fine-tuning until the gate is 1; not scaled by --epochs-scale."""
    gb_init: Annotated[tuple[GateStart, ...], _several("random|least-squares", "random")] = NOT_GIVEN
    """How shallow branches start: at random, or as the least-squares fit of the branch that they replace."""
    kernel_size: Annotated[tuple[Literal[3, 5], ...], _several("3|5", "3")] = NOT_GIVEN
    """Of the shallow branches' convolutions."""
    ac_after: Annotated[tuple[str, ...], _several("STAGE|A+B|none")] = NOT_GIVEN
    """Stage (from 1) after which an auxiliary classifier is placed, or `none`. `2 3` are two models, `2+3` one with both."""
    ac_head: Annotated[tuple[AcHead, ...], _several("pool|bottleneck", "pool")] = NOT_GIVEN
    """What auxiliary classifiers are made of."""
    pram: Annotated[tuple[Pram, ...], _several("attention|eq2", "attention")] = NOT_GIVEN
    """Form of the post-ReLU mismatch loss: the released code's, or equation 2 to the letter."""
    beta: Annotated[tuple[float, ...], _several("WEIGHT")] = NOT_GIVEN
    """Weight of that loss; by default the preset's, a hundredth of it for `eq2`."""
    search: Annotated[str, arg(metavar="grid|random|SEARCHER")] = "grid"
    """`grid`: all combinations of the flags' values; `random`: some; `optuna` or another Ray Tune searcher: its proposals."""
    trials: Annotated[int | None, arg(metavar="NUMBER", help_behavior_hint="")] = None
    """Configurations of a search other than `grid`, those of earlier runs of it counted."""
    between: Annotated[
        tuple[Literal["budgets", "d-th", "beta"], ...], arg(metavar="budgets|d-th|beta ...", help_behavior_hint="")
    ] = NOT_GIVEN
    """In a search: flags of which every value from the lowest given one to the highest may be tried."""
    run: RunFlags


FLAG_OF = {"budget": "budgets"}
"""Flags that are not named as the field of `Choice` that they fill."""


def sweep(description: str, **defaults: tuple[Any, ...]) -> None:
    """A whole sweep script: parse the command line, train every combination of the axes' values, exit.

    Args:
        description: what it compares; shown by `--help`.
        defaults: values by the name of a field of `raysp.stages.chain.Choice`, where the sweep has its own instead of the
            preset's.
    """
    own = "; ".join(f"{_flag(name)} {' '.join(map(_shown, values))}" for name, values in defaults.items())
    help_text = f"{description.strip()}\n\nIts own defaults: {own}." if own else description.strip()
    main(SweepFlags, lambda flags: _work(flags, defaults), help_text)


def _work(flags: SweepFlags, defaults: Mapping[str, tuple[Any, ...]]) -> Work:
    if flags.sensitivity is not None and flags.density is not NOT_GIVEN:
        raise ValueError("--sensitivity and --density; expected one of them: your own sensitivities take the sparse twin's place")
    preset = PRESETS[flags.preset]
    source = flags.run.open(preset)
    builder = ChainBuilder(
        preset,
        source.config,
        model=flags.model,
        width=flags.run.width,
        epochs_scale=flags.run.epochs_scale,
        precision=flags.run.precision,
        sensitivity=None if flags.sensitivity is None else read_sensitivity(flags.sensitivity),
    )
    values = axis_values(flags, defaults, preset, builder.num_stages)
    search = read_search(flags.search, flags.trials, flags.between, values, builder)
    combinations = [Choice(**dict(zip(values, combination, strict=True))) for combination in product(*values.values())]
    if flags.sensitivity is not None and all(choice.mask_method == "snl" for choice in combinations):
        raise ValueError("--sensitivity with no mask method but snl, which shares the budget out itself; leave one of them out")
    if search is not None:
        if flags.run.stopping != "none":
            raise ValueError(STOPPED_SEARCH)
        return Work(leaves=[], sources=[source], name=flags.preset, search=search)
    if flags.search == "random":
        assert flags.trials is not None
        drawn = draw(values, flags.between, flags.trials)
        combinations = [Choice(**{**one, "seed": seed}) for one in drawn for seed in values["seed"]]
    leaves = {stage.key: stage for stage in map(builder.chain, combinations)}
    note = ""
    if len(leaves) < len(combinations):
        note = (
            f"{len(combinations)} combinations of the flags' values, {len(leaves)} of them distinct: some choices mean nothing "
            "beside others (the gate's without gates or in a ramp of two epochs, a head's without an auxiliary classifier, ...)"
        )
    return Work(leaves=list(leaves.values()), sources=[source], name=flags.preset, note=note)


def axis_values(
    flags: SweepFlags, defaults: Mapping[str, tuple[Any, ...]], preset: Preset, num_stages: int
) -> dict[str, tuple[Any, ...]]:
    """The values of every axis, by the field of `Choice`.

    Args:
        flags: as given.
        defaults: the sweep's own values.
        preset: what neither of them says.
        num_stages: of the network; default placements of auxiliary classifiers are moved to stages that it has.

    Raises:
        ValueError: a placement that can't be read.
    """
    presets = {"budget": preset.budgets, "d_th": preset.d_th, "gamma": preset.gamma, "ac_after": preset.ac_after}
    values: dict[str, tuple[Any, ...]] = presets | dict(defaults)
    # A network with fewer stages than the preset's has its classifier before its own last one.
    moved = [tuple(sorted({min(stage, num_stages - 1) for stage in placement})) for placement in values["ac_after"]]
    values["ac_after"] = tuple(dict.fromkeys(moved))
    for field in fields(Choice):
        given = getattr(flags, FLAG_OF.get(field.name, field.name), NOT_GIVEN)
        if given is not NOT_GIVEN:
            values[field.name] = given
    values["seed"] = (0,) if flags.run.seeds is NOT_GIVEN else flags.run.seeds
    values["d_th"] = tuple(None if d == "none" else d for d in values["d_th"])
    values["ac_after"] = tuple(read_placement(a) if isinstance(a, str) else a for a in values["ac_after"])
    return values


def read_placement(text: str) -> tuple[int, ...]:
    """Stages of one model's auxiliary classifiers: `none`, `3`, or `2+3`.

    Raises:
        ValueError: it reads otherwise, or names a stage twice.
    """
    if text == "none":
        return ()
    parts = text.split("+")
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ValueError(f"ac_after {text!r}; expected a stage (3), several in one model (2+3), or none")
    return tuple(sorted(map(int, parts)))


def read_sensitivity(path: Path) -> list[float] | dict[str, float]:
    """A user's own sensitivities, in forward order or by layer.

    Raises:
        ValueError: the file can't be read, or holds something else than numbers of at least 0, one of them above.
    """
    expected = "expected JSON: an object of ReLU layers' names and numbers, or a list of numbers in forward order"
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"sensitivity {path} can't be read ({error!s:.200}); {expected}") from None
    named = (
        found
        if isinstance(found, dict)
        else {f"number {n}": v for n, v in enumerate(found, start=1)}
        if isinstance(found, list)
        else {}
    )
    if not named:
        raise ValueError(f"sensitivity {path} holds something else; {expected}")
    for name, value in named.items():
        if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
            raise ValueError(f"sensitivity {path}: {name!r:.80} is {value!r:.40}; expected a finite number of at least 0")
    if not any(named.values()):
        raise ValueError(f"sensitivity {path}: all are 0; expected at least one above")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


def _flag(name: str) -> str:
    return "--" + FLAG_OF.get(name, name).replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
