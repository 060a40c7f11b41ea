"""The real stages at their smallest: the quick preset on digits, four channels wide."""

import dataclasses

from rich.console import Console

from raysp.data.sources import open_source
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.methods.choices import Choice
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.records import Store
from raysp.store.tensor_files import load_tensors


def builder(scale=0.34, **options):
    return ChainBuilder(PRESETS["quick"], open_source("digits", None, None).config, width=4, epochs_scale=scale, **options)


def values_of(**given):
    """Of every axis of a sweep, one value but for two budgets and what is given."""
    held = {field.name: (field.default,) for field in dataclasses.fields(Choice) if field.name != "budget"}
    return held | {"budget": (0.1, 0.4), "seed": (0,)} | given


def run(leaves, root, **more):
    options = RunOptions(inline=True, gpus_per_stage=0, stopping=more.pop("stopping", "none"))
    source = open_source("digits", None, None)
    return run_sweep(leaves, root, [source], options, labels={}, console=Console(quiet=True), **more)


def weights(root, stage):
    return load_tensors(Store(root=root).directory(stage) / "weights.safetensors")
