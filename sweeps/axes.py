"""From a sweep's flags to its configurations: every combination of the axes' values.

Owns the axes: what is not given on the command line comes from the sweep, and what the sweep leaves open from the preset.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, get_args

from raysp.methods.choices import SHARING_METHODS, WHICH_GATED, Choice, MaskMethod, OwnMaskMethod
from raysp.models.network import Network
from raysp.planning.proposals import STOPPED_SEARCH
from raysp.planning.weighing import OF_LINK
from raysp.stages.chain import ChainBuilder
from raysp.stages.predictable import check_predicted
from raysp.stages.presets import PRESETS, Preset
from raysp.stages.time_limit import time_limit
from raysp.store.location import read_given
from raysp.store.paths import user_path
from raysp.store.reasons import why
from sweeps.flags import FLAG_OF, NOT_GIVEN, SweepFlags, read_budget, read_seconds
from sweeps.running import Work
from sweeps.searching import draw, read_search
from sweeps.weighing import weighing_of


def work_of(flags: SweepFlags, defaults: Mapping[str, tuple[Any, ...]]) -> Work:
    """Every combination of the axes' values, as stages.

    Args:
        flags: as given.
        defaults: the sweep's own values, by the field of `Choice`.

    Raises:
        ValueError: a value that can't be used.
    """
    if flags.sensitivity is not None and flags.density is not NOT_GIVEN:
        raise ValueError("--sensitivity and --density; expected one of them: your own sensitivities take the sparse twin's place")
    preset = PRESETS[flags.preset]
    weighing = weighing_of(flags.run, flags.link)
    source = flags.run.open(preset)
    builder = ChainBuilder(
        preset,
        source.config,
        model=flags.model,
        width=flags.run.width,
        relu6=flags.relu6 == "relu",
        baseline=None if flags.baseline is None else user_path(flags.baseline),
        epochs_scale=flags.run.epochs_scale,
        precision=flags.run.precision,
        sensitivity=None if flags.sensitivity is None else read_sensitivity(user_path(flags.sensitivity)),
        calibrations=weighing.calibrations,
    )
    network = builder.network
    values = axis_values(flags, defaults, preset, network.origin.points, len(network.chains))
    notes = _lacking(network, flags, dict(preset.axes) | dict(defaults), values)
    if "max_seconds" in values:
        pairs = product(values["max_seconds"], values.get("link", (None,)))
        limits = "; ".join(str(time_limit(most, link, weighing.by)) for most, link in pairs)
        notes.append(
            f"the final exit is to take {limits} (predicted): the blocks that lose least for it are gated, which are chosen when "
            "their losses are measured"
        )
    search = read_search(flags.search, flags.trials, flags.between, values, builder, weighing)
    combinations = [Choice(**dict(zip(values, combination, strict=True))) for combination in product(*values.values())]
    check_predicted(network, weighing, combinations)
    _refuse_idle(flags, {choice.mask_method for choice in combinations})
    if search is not None:
        if flags.run.stopping != "none":
            raise ValueError(STOPPED_SEARCH)
        return Work(
            leaves=[],
            sources=[source],
            name=flags.preset,
            notes=notes,
            search=search,
            given=builder.given(values["seed"]),
            weighing=weighing,
        )
    if flags.search == "random":
        assert flags.trials is not None
        drawn = draw(values, flags.between, flags.trials)
        combinations = [Choice(**{**one, "seed": seed}) for one in drawn for seed in values["seed"]]
    leaves = {stage.key: stage for stage in map(builder.chain, combinations)}
    if len(leaves) < len(combinations):
        notes.append(
            f"{len(combinations)} combinations of the flags' values, {len(leaves)} of them distinct: some choices mean nothing "
            "beside others (the gate's without gates or in a ramp of two epochs, a head's without an auxiliary classifier, ...)"
        )
    return Work(
        leaves=list(leaves.values()),
        sources=[source],
        name=flags.preset,
        notes=notes,
        given=builder.given(values["seed"]),
        weighing=weighing,
    )


def _lacking(
    network: Network, flags: SweepFlags, usual: Mapping[str, tuple[Any, ...]], values: Mapping[str, tuple[Any, ...]]
) -> list[str]:
    """What is said of a network that lacks what a preset or a sweep asks for by itself."""
    said = []
    if "gate_loss" in usual and not network.chains and _way_to_gate(flags, usual) is None:
        said.append(f"{network.name} has no block that could be gated, so none is")
    if flags.ac_after is NOT_GIVEN and values["ac_after"] != usual["ac_after"]:
        places, asked = (
            " and ".join("+".join(map(str, placement)) or "none" for placement in placements)
            for placements in (values["ac_after"], usual["ac_after"])
        )
        stages = len(network.origin.points)
        said.append(
            f"{network.name} has {stages} stage{'s' * (stages != 1)}: auxiliary classifiers stand after {places}, where usually "
            f"after {asked}"
        )
    return said


def _refuse_idle(flags: SweepFlags, methods: set[MaskMethod]) -> None:
    """Refuse a flag of which no mask method of the sweep knows."""
    methods_of: dict[str, tuple[MaskMethod, ...]] = {
        "sensitivity": SHARING_METHODS,
        "density": SHARING_METHODS,
        "mask_start": get_args(OwnMaskMethod),
        "depth_price": ("taylor", "frozen"),
        "layer_price": ("taylor", "frozen"),
    }
    for name, knowing in methods_of.items():
        if getattr(flags, name) not in (None, NOT_GIVEN) and not methods & set(knowing):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} with mask method {', '.join(sorted(methods))}, to which it means nothing; expected --mask-method "
                f"{' or '.join(knowing)}, or no --{flag}"
            )


def axis_values(
    flags: SweepFlags, defaults: Mapping[str, tuple[Any, ...]], preset: Preset, stages: Sequence[str], num_blocks: int
) -> dict[str, tuple[Any, ...]]:
    """The values of every axis, by the field of `Choice`.

    Args:
        flags: as given.
        defaults: the sweep's own values.
        preset: what neither of them says.
        stages: the network's, by the node that each ends at; default placements of auxiliary classifiers are moved to stages
            that it has.
        num_blocks: that can be gated; where there is none, what a preset says of gates is left out.

    Raises:
        ValueError: a placement that can't be read.
    """
    values: dict[str, tuple[Any, ...]] = dict(preset.axes) | dict(defaults)
    if not num_blocks:
        values.pop("gate_loss", None)
    # A network with fewer stages than the preset's has its classifier before its own last one; with a single stage it has none.
    moved = [tuple(sorted({min(stage, len(stages) - 1) for stage in placement} - {0})) for placement in values["ac_after"]]
    values["ac_after"] = tuple(dict.fromkeys(moved))
    for field in fields(Choice):
        given = getattr(flags, FLAG_OF.get(field.name, field.name), NOT_GIVEN)
        if given is not NOT_GIVEN:
            values[field.name] = given
    if flags.gate_epochs is NOT_GIVEN and (
        values.get("gb_init") != preset.axes.get("gb_init") or set(values.get("gamma", ())) - {"linear"}
    ):
        values.pop("gate_epochs", None)  # the preset's are of branches that start as its own do, and need no ramp
    if flags.budgets is not NOT_GIVEN:
        values["budget"] = tuple(map(read_budget, flags.budgets))
    if (way := _way_to_gate(flags, defaults)) is not None:
        for other in WHICH_GATED:
            if other != way:
                values.pop(other, None)
    if flags.max_seconds is not NOT_GIVEN:
        values["max_seconds"] = tuple(map(read_seconds, flags.max_seconds))
    elif flags.link is not NOT_GIVEN:
        if OF_LINK not in flags.run.costs:
            raise ValueError(f"--link without --max-seconds or --costs {OF_LINK}, to which it belongs; expected one of them")
        values.pop("link", None)
    values["seed"] = (0,) if flags.run.seeds is NOT_GIVEN else flags.run.seeds
    values["d_th"] = tuple(None if d == "none" else d for d in values.get("d_th", (None,)))
    values["ac_after"] = tuple(read_placement(a, stages) if isinstance(a, str) else a for a in values["ac_after"])
    return values


def _way_to_gate(flags: SweepFlags, defaults: Mapping[str, tuple[Any, ...]]) -> str | None:
    """The field that says which blocks are gated, if a flag or the sweep's own values say so. Raises ValueError."""
    given = [name for name in reversed(WHICH_GATED) if getattr(flags, name) is not NOT_GIVEN]
    if flags.d_th == ("none",) and len(given) > 1:
        given.remove("d_th")
    elif "d_th" not in given and (defaults.get("d_th", (None,)) != (None,) or ("d_th" in defaults and not given)):
        given.append("d_th")
    if len(given) > 1:
        said = [f"--{name.replace('_', '-')}" if name != "d_th" else "thresholds (--d-th, or this sweep's own)" for name in given]
        raise ValueError(f"{' with '.join(said)}; expected one of them: each says which blocks are gated")
    return given[0] if given else None


def read_placement(text: str, stages: Sequence[str]) -> tuple[int, ...]:
    """Stages of one model's auxiliary classifiers: `none`, `3`, `2+3`, or the nodes that they end at.

    Args:
        text: as given.
        stages: the network's, by those nodes.

    Raises:
        ValueError: it reads otherwise, or names a stage twice.
    """
    if text == "none":
        return ()
    parts = [str(stages.index(part) + 1) if part in stages else part for part in text.split("+")]
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ValueError(
            f"ac_after {text!r}; expected a stage (3), several in one model (2+3), or none; raysp inspect shows them"
        )
    return tuple(sorted(map(int, parts)))


def read_sensitivity(path: Path) -> list[float] | dict[str, float]:
    """A user's own sensitivities, in forward order or by layer.

    Raises:
        ValueError: the file can't be read, or holds something else than numbers of at least 0, one of them above.
    """
    expected = "expected JSON: an object of ReLU layers' names and numbers, or a list of numbers in forward order"
    content = read_given(path, "a file of sensitivities")
    try:
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"sensitivity {path}: {why(error)}; {expected}") from None
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
