"""Budget, losses, schedules: the method's arithmetic."""

import dataclasses
import math
import time

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysp.methods.budget import allocate_budget, resolve_budget, whole_channels
from raysp.methods.losses import distillation_kl, pram_attention, pram_eq2
from raysp.methods.positions import network_masks, top_positions
from raysp.training.recipes import Recipe, gamma_at


@st.composite
def allocations(draw, low=0.0):
    sizes = draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=30))
    element = st.floats(low, 1e3) | st.sampled_from([low, 1.0])
    sensitivity = draw(st.lists(element, min_size=len(sizes), max_size=len(sizes)))
    return sensitivity, sizes, draw(st.integers(0, sum(sizes)))


@given(allocations())
def test_allocations_sum_exactly_and_fit(case):
    sensitivity, sizes, budget = case
    counts = allocate_budget(sensitivity, sizes, budget)
    assert sum(counts) == budget
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


@given(allocations(low=1e-3))
def test_allocations_are_water_filling_to_within_one_unit(case):
    sensitivity, sizes, budget = case
    expected = reference.water_fill(sensitivity, sizes, budget)
    assert np.abs(np.array(allocate_budget(sensitivity, sizes, budget)) - expected).max() < 1 + 1e-6


def test_insensitive_layers_are_filled_last():
    assert allocate_budget([0.0, 1.0, 0.0], [10, 10, 10], 8) == [0, 8, 0]
    assert allocate_budget([0.0, 1.0, 0.0], [10, 10, 10], 20) == [5, 10, 5]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 64)), min_size=1, max_size=20))
def test_whole_channels_are_within_one_channel_and_never_more_in_all(layers):
    counts, sizes = [c for c, _ in layers], [s for _, s in layers]
    kept = whole_channels(counts, sizes)
    assert all(k % s == 0 and abs(k - c) <= s for k, c, s in zip(kept, counts, sizes, strict=True))
    assert any(kept) or sum(counts) < min(sizes)
    left = sum(counts) - sum(kept)
    assert left >= 0
    assert all(k >= c or s > left for k, c, s in zip(kept, counts, sizes, strict=True)), "a channel that fits was left out"


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=5), st.integers(0, 200), st.integers(0, 99))
def test_masks_of_the_whole_network_hold_the_budget(layers, budget, seed):
    shapes = [(c, s, s) for c, s in layers]
    torch.manual_seed(seed)
    total = sum(c * s * s for c, s in layers)
    pixels = network_masks([torch.rand(shape) for shape in shapes], shapes, min(budget, total))
    assert sum(int(mask.sum()) for mask in pixels) == min(budget, total)
    scores = [torch.rand(c, 1, 1) for c, _ in layers]
    channels = network_masks(scores, shapes, min(budget, total))
    left = min(budget, total) - sum(int(mask.sum()) for mask in channels)
    assert left >= 0
    for (_, s), mask in zip(layers, channels, strict=True):
        assert tuple(mask.shape[1:]) == (s, s)
        whole = mask.flatten(1).float().mean(dim=1)
        assert set(whole.tolist()) <= {0.0, 1.0}
        assert bool(whole.all()) or s * s > left, "a channel that fits was left out"


def test_whole_channels_are_taken_from_the_highest_score_down_while_they_fit():
    scores = [torch.tensor([0.9, 0.1]).view(2, 1, 1), torch.tensor([0.5, 0.8, 0.7]).view(3, 1, 1)]
    large, small = network_masks(scores, [(2, 2, 2), (3, 1, 1)], 6)
    assert large.flatten(1).all(dim=1).tolist() == [True, False]
    assert small.flatten().tolist() == [False, True, True]


def test_a_thousand_layers_are_quick():
    rng = np.random.default_rng(0)
    sensitivity, sizes = rng.random(1000).tolist(), rng.integers(1, 100_000, 1000).tolist()
    start = time.perf_counter()
    allocate_budget(sensitivity, sizes, sum(sizes) // 3)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "case", [([1.0], [5], 6), ([1.0], [5], -1), ([math.nan], [5], 1), ([-1.0], [5], 1), ([1.0, 1.0], [5], 1), ([1.0], [-5], 0)]
)
def test_bad_allocations_are_refused(case):
    with pytest.raises(ValueError, match="expected"):
        allocate_budget(*case)


@pytest.mark.parametrize(("given", "units"), [(2, 2), (100, 100), (0.5, 50), (0.999, 100), (0.005, 0), (0.015, 2)])
def test_budgets_are_units_or_shares(given, units):
    if units:
        assert resolve_budget(given, 100) == units
    else:
        with pytest.raises(ValueError, match="less than one"):
            resolve_budget(given, 100)


@pytest.mark.parametrize("given", [0, -1, 1, 101, 1.5, math.nan, math.inf, -0.1])
def test_bad_budgets_are_refused(given):
    with pytest.raises(ValueError, match=r"budget .*(expected|above|give)"):
        resolve_budget(given, 100)


def maps(seed=0):
    torch.manual_seed(seed)
    shapes = [(3, 4, 5, 5), (3, 8, 2, 2)]
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes], [
        torch.randn(s, dtype=torch.float64) for s in shapes
    ]


@pytest.mark.parametrize("name", ["pram_attention", "pram_eq2"])
def test_pram_and_its_gradient_against_the_reference(name):
    fast, slow = {"pram_attention": (pram_attention, reference.pram_attention), "pram_eq2": (pram_eq2, reference.pram_eq2)}[name]
    student, teacher = maps()
    got, want = fast(student, teacher), slow(student, teacher)
    torch.testing.assert_close(got, want)
    for g, w in zip(torch.autograd.grad(got, student), torch.autograd.grad(want, student), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("loss", [pram_attention, pram_eq2])
def test_pram_of_zero_or_equal_maps_has_finite_gradients(loss):
    zero = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss([zero], [torch.rand(2, 3, 4, 4)]).backward()
    assert torch.isfinite(zero.grad).all()
    same = torch.rand(2, 3, 4, 4, requires_grad=True)
    value = loss([same], [same.detach().clone()])
    value.backward()
    assert value.item() == 0
    assert torch.count_nonzero(same.grad) == 0


def test_distillation_against_the_reference():
    torch.manual_seed(1)
    student = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 10, dtype=torch.float64)
    got, want = distillation_kl(student, teacher, 4.0), reference.distillation_kl(student, teacher, 4.0)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, student), torch.autograd.grad(want, student))


def test_the_papers_gate():
    assert [gamma_at(i, 90, "linear") for i in (0, 45, 89, 90, 179)] == [0, 0.5, 89 / 90, 1, 1]
    assert [round(gamma_at(i, 90, "cosine"), 6) for i in (0, 30, 45, 90)] == [0, 0.25, 0.5, 1]
    assert gamma_at(0, 0, "linear") == 1


def test_the_papers_baseline_recipe():
    recipe = Recipe()
    rates = [recipe.lr_at(epoch) for epoch in (0, 149, 150, 180, 210, 239)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.0005, 0.00005, 0.00005])


def test_scaling_takes_milestones_along():
    scaled = Recipe().scaled(0.1)
    assert (scaled.epochs, scaled.milestones) == (24, (15, 18, 21))
    assert Recipe().scaled(0.001).epochs == 1


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"factor": 0.0}, {"momentum": 1.0}, {"milestones": (5, 3)}, {"decay": "x"}],
)
def test_bad_recipes_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Recipe(**bad)


def test_cosine_ends_near_zero():
    recipe = dataclasses.replace(Recipe(), decay="cosine", milestones=(), epochs=10)
    assert recipe.lr_at(0) == recipe.lr
    assert recipe.lr_at(9) < 0.03 * recipe.lr


@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_top_positions_are_exact_with_ties(count):
    score = torch.tensor([1.0, 2.0]).repeat(12).view(2, 3, 4)
    mask = top_positions(score, count)
    assert int(mask.sum()) == count
    if 0 < count < 24:
        assert score[mask].min() >= score[~mask].max()
