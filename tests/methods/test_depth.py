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
    found = priced(given, sizes, INNER, count, depth_price=price)
    for part, was, w, inner in zip(found, given, worth, INNER, strict=True):
        goes = price > 0 and inner and w < price * average
        assert torch.equal(part, torch.full_like(was, GOES_FIRST) if goes else was)


def test_what_a_cheap_layer_leaves_goes_to_the_others_and_the_count_stays():
    given, sizes = scores(), [1] * 5
    plain = network_masks(given, SHAPES, 60)
    deep = network_masks(priced(given, sizes, INNER, 60, depth_price=0.9), SHAPES, 60)
    kept = [[int(mask.sum()) for mask in masks] for masks in (plain, deep)]
    assert sum(kept[0]) == sum(kept[1]) == 60
    emptied = [now == 0 < before for before, now in zip(*kept, strict=True)]
    assert any(emptied) and all(inner for inner, gone in zip(INNER, emptied, strict=True) if gone)
    assert all(now >= before for before, now, gone in zip(*kept, emptied, strict=True) if not gone)


def test_emptied_layers_are_filled_again_where_the_count_demands_it():
    given = scores()
    masks = network_masks(priced(given, [1] * 5, INNER, 111, depth_price=10.0), SHAPES, 111)
    assert sum(int(mask.sum()) for mask in masks) == 111


@pytest.mark.parametrize("depth_price", [0.0, 0.9])
@pytest.mark.parametrize("count", [8, 60, 100])
def test_by_a_price_on_all_layers_the_least_worth_go_while_the_others_can_hold_the_count(count, depth_price):
    given, sizes = scores(), [1] * 5
    plain = priced(given, sizes, INNER, count, depth_price=depth_price)
    found = priced(given, sizes, INNER, count, depth_price=depth_price, layer_price=1e9)
    gone, before = ({i for i, part in enumerate(parts) if bool((part < 0).all())} for parts in (found, plain))
    held = sum(given[i].numel() for i in range(5) if i not in gone)
    assert before <= gone and (held >= count or gone == before), "a price that no layer is worth leaves as many as it takes"
    assert all(held - given[i].numel() < count for i in range(5) if i not in gone), "and no more"
    masks = network_masks(found, SHAPES, count)
    assert sum(int(mask.sum()) for mask in masks) == count
    if held >= count:
        assert all(not bool(masks[i].any()) for i in gone)


def test_a_price_on_layers_empties_those_of_little_worth_and_any_of_them():
    given, sizes = scores(), [1] * 5
    gone = [bool((part < 0).all()) for part in priced(given, sizes, INNER, 30, layer_price=0.5)]
    assert gone == [False, True, True, False, True], "the best layers stay, inner or not"
