"""Layers that nobody measured, from those that were."""

import math

import pytest

from raysp.latency.fitted import Fitted
from raysp.latency.known import packaged
from raysp.latency.shapes import read_shape
from raysp.latency.tables import PartCosts


def conv(channels, size, outs, kernel=3, stride=1):
    return f"conv {kernel}x{kernel}, stride {stride}, {channels}x{size}x{size} to {outs}"


def made_up(shape):
    """Costs that follow a law."""
    read = read_shape(shape)
    macs = read.channels * read.kernel * read.outs * read.out_pixels
    sent = 3e5 * (1 + read.channels * read.pixels / 4096 + read.outs * read.out_pixels / 4096)
    return PartCosts(time_s=1e-6 * macs**0.8, bytes=sent, messages=4.0, round_trips=2.0)


SHAPES = [
    conv(channels, size, outs, kernel, stride)
    for channels in (8, 16, 32, 64)
    for size in (4, 8, 16)
    for outs in (16, 32)
    for kernel, stride in ((1, 1), (3, 1), (3, 2), (5, 1))
]


def test_layers_that_were_held_out_are_told():
    held_out = SHAPES[::5]
    fitted = Fitted({shape: made_up(shape) for shape in SHAPES if shape not in held_out})
    for shape in held_out:
        told, true = fitted.costs(shape), made_up(shape)
        assert told.time_s == pytest.approx(true.time_s, rel=0.25)
        assert told.bytes == pytest.approx(true.bytes, rel=0.25)
        assert told.round_trips == pytest.approx(2.0, rel=0.01)


def test_the_error_that_is_said_is_the_error_that_is_made():
    costs = {shape: made_up(shape) for shape in SHAPES[:30]}
    wrong = SHAPES[7]
    costs[wrong] = PartCosts(time_s=made_up(wrong).time_s, bytes=10 * made_up(wrong).bytes, messages=4.0, round_trips=2.0)
    error = Fitted(costs).error("conv")
    off = []
    for shape in costs:
        told = Fitted({other: paid for other, paid in costs.items() if other != shape}).costs(shape)
        off.append(abs(told.bytes / costs[shape].bytes - 1))
    assert error.layers == 30
    assert error.bytes_median == pytest.approx(sorted(off)[14] / 2 + sorted(off)[15] / 2)
    assert error.bytes_largest == pytest.approx(max(off))
    assert error.bytes_largest > 0.5


def test_too_few_layers_tell_nothing():
    few = Fitted({shape: made_up(shape) for shape in SHAPES[:7]})
    assert few.costs(SHAPES[9]) is None and few.error("conv") is None
    many = Fitted({shape: made_up(shape) for shape in SHAPES})
    for other in (
        "linear 16 to 10",
        "norm 8x8x8",
        "max pool 2x2, stride 2, 8x8x8 to 8x4x4",
        "conv 3x3, stride 1, 8x8x8 to 8, groups 8",
    ):
        assert many.costs(other) is None


def test_what_the_package_knows_of_convolutions_tells_others():
    error = packaged().error(conv(16, 16, 16))
    assert error.layers > 60
    assert error.bytes_median < 0.25
    assert all(map(math.isfinite, vars(error).values()))
