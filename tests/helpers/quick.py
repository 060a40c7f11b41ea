"""The real stages at their smallest: the quick preset on digits, four channels wide."""

import dataclasses

from raysp.data.sources import open_source
from raysp.methods.choices import Choice
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS


def builder(scale=0.34):
    return ChainBuilder(PRESETS["quick"], open_source("digits", None, None).config, width=4, epochs_scale=scale)


def values_of(**given):
    """Of every axis of a sweep, one value but for two budgets and what is given."""
    held = {field.name: (field.default,) for field in dataclasses.fields(Choice) if field.name != "budget"}
    return held | {"budget": (0.1, 0.4), "seed": (0,)} | given
