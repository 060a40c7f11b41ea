"""The real stages at their smallest: the quick preset on digits, four channels wide."""

from raysp.chain import ChainBuilder
from raysp.data import open_source
from raysp.presets import PRESETS


def builder(scale=0.34):
    return ChainBuilder(PRESETS["quick"], open_source("digits", None, None).config, width=4, epochs_scale=scale)
