"""The price on depth, against the definition written out, and in a walk."""

import pytest
import torch

from raysp.methods.depth import GOES_FIRST, priced
from raysp.methods.positions import network_masks

INNER = (False, True, False, True, True)
SHAPES = ((2, 4, 4), (4, 2, 2), (4, 2, 2), (6, 2, 2), (6, 2, 2))


def scores(seed=0, channel=False):
    torch.manual_seed(seed)
    scales = (3.0, 0.3, 1.0, 2.0, 0.8)
    shapes = [(shape[0], 1, 1) if channel else shape for shape in SHAPES]
    return [scale * torch.rand(shape) for shape, scale in zip(shapes, scales, strict=True)]


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("price", [0.0, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("count", [8, 40, 112])
def test_a_layer_goes_if_it_is_worth_less_than_its_price(count, price, channel):
    given, sizes = scores(channel=channel), [shape[1] * shape[2] if channel else 1 for shape in SHAPES]
    left, lowest = count, None
    for score, size in sorted([(float(v), size) for part, size in zip(given, sizes, strict=True) for v in part.reshape(-1)])[
        ::-1
    ]:
        if size > left:
            break
        left, lowest = left - size, score
    if lowest is None:
        lowest = max(float(part.max()) for part in given)
    worth = [size * sum(max(float(v) - lowest, 0.0) for v in part.reshape(-1)) for part, size in zip(given, sizes, strict=True)]
    average = sum(w for w, inner in zip(worth, INNER, strict=True) if inner) / 3
    found = priced(given, sizes, INNER, count, price)
    for part, was, w, inner in zip(found, given, worth, INNER, strict=True):
        goes = price > 0 and inner and w < price * average
        assert torch.equal(part, torch.full_like(was, GOES_FIRST) if goes else was)


def test_what_a_cheap_layer_leaves_goes_to_the_others_and_the_count_stays():
    given, sizes = scores(), [1] * 5
    plain = network_masks(given, SHAPES, 60)
    deep = network_masks(priced(given, sizes, INNER, 60, 0.9), SHAPES, 60)
    kept = [[int(mask.sum()) for mask in masks] for masks in (plain, deep)]
    assert sum(kept[0]) == sum(kept[1]) == 60
    emptied = [now == 0 < before for before, now in zip(*kept, strict=True)]
    assert any(emptied) and all(inner for inner, gone in zip(INNER, emptied, strict=True) if gone)
    assert all(now >= before for before, now, gone in zip(*kept, emptied, strict=True) if not gone)


def test_emptied_layers_are_filled_again_where_the_count_demands_it():
    given = scores()
    masks = network_masks(priced(given, [1] * 5, INNER, 111, 10.0), SHAPES, 111)
    assert sum(int(mask.sum()) for mask in masks) == 111
