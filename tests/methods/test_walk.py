"""Rankings: what a position is worth, how a walk goes down, and the masks that follow."""

import itertools
import math

import parallel
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from raysp.engine.workers import ALONE
from raysp.methods.ranking import LAST, RankedLayers, rank_units, ranked_masks
from raysp.methods.walk import WalkTask
from raysp.models.relu import MaskedReLU
from raysp.training.step import Step


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 39))
def test_who_left_last_goes_last_and_of_those_the_most_worth(units, cut):
    cut = min(cut, len(units))
    when, worth = zip(*units, strict=True)
    parts = [(torch.tensor(values[:cut]), torch.tensor(values[cut:])) for values in (when, worth)]
    ranks = torch.cat(rank_units(parts[0], [part.float() for part in parts[1]]))
    expected = sorted(range(len(units)), key=lambda i: (-(when[i] or 99), -worth[i], i))
    assert ranks.tolist() == [expected.index(i) for i in range(len(units))]


def test_masks_of_a_ranking_are_nested_and_exact():
    torch.manual_seed(0)
    shapes = [(3, 4, 4), (5, 2, 2)]
    ranks = [part.int() for part in torch.split(torch.randperm(68), [48, 20])]
    ranks = [part.view(shape) for part, shape in zip(ranks, shapes, strict=True)]
    before = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
    for budget in (0, 1, 17, 40, 68):
        masks = ranked_masks(ranks, shapes, budget)
        assert sum(int(mask.sum()) for mask in masks) == budget
        assert all(bool((rank[mask] < budget).all()) for rank, mask in zip(ranks, masks, strict=True))
        assert all(bool((mask | ~old).all()) for mask, old in zip(masks, before, strict=True))
        before = masks


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("without", [(), (1,), (0, 2), (0, 1, 2)])
def test_layers_keep_what_their_masks_hold_though_some_get_none(by_channel, without):
    torch.manual_seed(1)
    shapes = [(3, 4, 4), (5, 2, 2), (4, 3, 3)]
    units = [(shape[0], 1, 1) if by_channel else shape for shape in shapes]
    order = torch.randperm(sum(math.prod(unit) for unit in units)).int()
    ranks = [part.view(unit) for part, unit in zip(order.split([math.prod(unit) for unit in units]), units, strict=True)]
    layers = RankedLayers(ranks, [math.prod(shape) for shape in shapes])
    last = [torch.full_like(part, LAST) if number in without else part for number, part in enumerate(ranks)]
    for budget in (0, 3, 17, 50, 104):
        kept = [int(mask.sum()) for mask in ranked_masks(last, shapes, budget)]
        expected = [0 if number in without else count for number, count in enumerate(kept)]
        assert layers.counts(budget, without) == expected


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_scored_relu_computes_what_it_did_and_adds_up_first_order_changes(share):
    torch.manual_seed(0)
    relu = MaskedReLU((3, 4, 4))
    relu.set_mask(torch.rand(3, 4, 4) < share)
    x, gradient = torch.randn(5, 3, 4, 4, requires_grad=True), torch.randn(5, 3, 4, 4)
    relu(x).backward(gradient)
    want, x.grad = x.grad, None
    relu.score = torch.ones(3, 4, 4)
    y = relu(x)
    y.backward(gradient)
    relu.score, score = None, relu.score
    assert torch.equal(y, relu(x)) and torch.equal(x.grad, want)
    torch.testing.assert_close(score - 1, (gradient * (x - F.relu(x))).abs().sum(dim=0).detach())


@pytest.mark.parametrize(("first", "scored"), [(0, [0, 3]), (1, [2]), (5, [1, 4]), (6, [0, 3])])
def test_one_of_so_many_images_of_the_whole_batch_is_scored(first, scored):
    task, _ = walk(every=3)
    task.begin_epoch(0)
    task.first_image = first
    task.loss(torch.randn(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64))
    assert [list(range(5))[layer.relu.scored] for layer in task.model.relu_layers()] == [scored] * 7


def test_only_scored_images_count():
    relu = MaskedReLU((2, 3, 3))
    x, gradient = torch.randn(5, 2, 3, 3, requires_grad=True), torch.randn(5, 2, 3, 3)
    relu.score, relu.scored = torch.zeros(2, 3, 3), slice(1, None, 3)
    relu(x).backward(gradient)
    torch.testing.assert_close(relu.score, (gradient * x.clamp(max=0)).abs()[[1, 4]].sum(dim=0).detach())
    relu.score, relu.scored = torch.zeros(2, 3, 3), slice(7, None, 3)  # no image of this worker's part
    relu(x).backward(gradient)
    assert not relu.score.any()


def test_the_score_is_the_losss_change_when_a_position_turns_linear():
    """To first order: the mean over images of what |each| would change, by changing one position of one image."""
    torch.manual_seed(0)
    relu, weights = MaskedReLU((2, 2, 2)), torch.randn(3, 8, dtype=torch.float64)
    relu.set_mask(torch.tensor([1, 0, 1, 1, 0, 1, 1, 0], dtype=torch.bool).view(2, 2, 2))
    x, labels = torch.randn(4, 2, 2, 2, dtype=torch.float64), torch.tensor([0, 2, 1, 1])

    def loss(maps):
        return F.cross_entropy(maps.flatten(1) @ weights.T, labels)

    relu.score = torch.zeros(2, 2, 2, dtype=torch.float64)
    loss(relu(x.requires_grad_())).backward()
    score, relu.score = relu.score, None
    y, eps = relu(x).detach(), 1e-6
    for place in range(8):
        total = 0.0
        for image in range(4):
            other = y.clone()
            flipped = x[image] if bool(relu.mask.view(-1)[place]) else F.relu(x[image])
            other[image].view(-1)[place] += eps * (flipped - y[image]).view(-1)[place].detach()
            total += abs(float(loss(other) - loss(y))) / eps
        assert float(score.view(-1)[place]) == pytest.approx(total, abs=1e-5)


def walk(granularity="pixel", trains=True, floor=60, rounds=6, falling_epochs=2, carry=0.5, every=1, **prices):
    task = WalkTask(
        parallel.network(2),
        parallel.network(1),
        kl_weight=0.5,
        rho=2.0,
        granularity=granularity,
        floor=floor,
        rounds=rounds,
        carry=carry,
        steps_per_epoch=4,
        falling_epochs=falling_epochs,
        epochs=3,
        trains=trains,
        every=every,
        **prices,
    )
    return task, Step(task, parallel.recipe(), ALONE)


def go(task, step, epochs=3):
    """The masks after every step."""
    torch.manual_seed(3)
    masks = []
    for epoch in range(epochs):
        task.begin_epoch(epoch)
        task.model.train()
        for made in range(4):
            step(torch.randn(16, 1, 8, 8), torch.randint(0, 4, (16,)), 1.0)
            task.between_steps(made + 1, ALONE)
            masks.append([layer.relu.mask.clone() for layer in task.model.relu_layers()])
        task.end_epoch(epoch, step.optimizer)
    return masks


def counts(masks):
    return [sum(int(mask.sum()) for mask in of_step) for of_step in masks]


def test_the_count_falls_as_half_a_cosine_and_stays_at_the_floor():
    task, step = walk()
    total = task.model.num_relus()
    rounds = [(made + 1) * 6 // 8 for made in range(8)] + [6] * 4
    expected = [60 + round(0.5 * (1 + math.cos(math.pi * done / 6)) * (total - 60)) for done in rounds]
    assert counts(go(task, step)) == expected
    assert expected[-1] == 60 and len(set(expected)) == 6 + 1
    assert [task.eligible(epoch) for epoch in range(3)] == [False, False, True]


def test_ranks_follow_from_who_left_when_even_where_some_came_back():
    task, step = walk()
    masks = [torch.cat([mask.reshape(-1) for mask in of_step]) for of_step in go(task, step)]
    came_back = sum(int((now & ~before).sum()) for before, now in itertools.pairwise(masks))
    assert came_back > 0, "there is a way back"
    rank = torch.cat([part.reshape(-1) for part in task.ranks()])
    assert sorted(rank.tolist()) == list(range(len(rank)))
    last_seen = torch.zeros(len(rank), dtype=torch.int64)
    for number, mask in enumerate(masks, start=1):
        last_seen[mask] = number
    by_rank = last_seen[torch.sort(rank).indices]
    assert bool((by_rank[:-1] >= by_rank[1:]).all()), "who was kept longer ranks before"
    assert bool((rank[masks[-1]] < 60).all())


def test_whole_channels_go_where_channels_are_asked_for():
    task, step = walk("channel")
    for of_step in go(task, step):
        assert all(bool((mask == mask[:, :1, :1]).all()) for mask in of_step)
    shapes = [layer.relu.shape for layer in task.model.relu_layers()]
    masks = ranked_masks(task.ranks(), shapes, 200)
    assert 0 < counts([masks])[0] <= 200 and all(bool((mask == mask[:, :1, :1]).all()) for mask in masks)


def test_a_frozen_walk_moves_masks_and_no_weight():
    task, step = walk(trains=False)
    before = {name: parameter.clone() for name, parameter in task.model.named_parameters()}
    masks = go(task, step)
    assert counts(masks)[-1] == 60
    assert all(torch.equal(parameter, before[name]) for name, parameter in task.model.named_parameters())
    trained, step = walk()
    go(trained, step)
    assert not all(torch.equal(parameter, before[name]) for name, parameter in trained.model.named_parameters())


def test_scores_are_no_longer_kept_when_the_walk_is_over():
    task, step = walk()
    go(task, step, 2)
    walking = task.decided()
    task.begin_epoch(2)
    assert task.decided() != walking
    assert all(layer.relu.score is None for layer in task.model.relu_layers())


def test_a_price_on_layers_empties_others_than_a_price_on_depth_does_and_keeps_the_count():
    emptied = {}
    for name, prices in {"none": {}, "depth": {"depth_price": 0.8}, "layer": {"layer_price": 0.8}}.items():
        task, step = walk(**prices)
        *_, last = go(task, step)
        assert counts([last]) == [60]
        emptied[name] = [not bool(mask.any()) for mask in last]
        gateable = {block.inner_relu for _, block in task.model.gated_blocks()}
        inner = [layer.relu in gateable for layer in task.model.relu_layers()]
    assert not any(gone and not inside for gone, inside in zip(emptied["depth"], inner, strict=True))
    assert any(gone and not inside for gone, inside in zip(emptied["layer"], inner, strict=True))
    assert sum(emptied["layer"]) > sum(emptied["none"])


def test_who_holds_out_longer_in_snls_search_ranks_before():
    task, recipe = parallel.make("snl_walk")
    step, alphas = Step(task, recipe, ALONE), []
    torch.manual_seed(3)
    for epoch in range(3):
        task.begin_epoch(epoch)
        for _ in range(7):
            step(torch.randn(16, 1, 8, 8), torch.randint(0, 4, (16,)), 1.0)
            if task.searching:
                alphas.append(torch.cat([a.detach().reshape(-1).clamp_min(0) for a in task._alphas.values()]))
        task.end_epoch(epoch, step.optimizer)
    assert not task.searching and len(alphas) > 7
    rank = torch.cat([part.reshape(-1) for part in task.ranks()])
    kept = torch.cat([layer.relu.mask.reshape(-1) for layer in task.model.relu_layers()])
    assert bool((rank[kept] < int(kept.sum())).all()), "first those that its last weights belong to"
    area = torch.stack(alphas).sum(dim=0)
    for some in (kept, ~kept):
        ordered = area[some][torch.sort(rank[some]).indices]
        assert bool((ordered[:-1] >= ordered[1:] - 1e-4).all()) and ordered[0] > ordered[-1]


def test_what_one_worker_began_counts_in_full_where_several_go_on():
    class Other:
        """A second worker, whose images have the same scores; what is taken from a checkpoint is the first one's alone."""

        size = 2

        def sum_(self, *tensors):
            for tensor, from_checkpoint in zip(tensors, kept, strict=True):
                tensor += tensor - from_checkpoint

    task, _ = walk()
    task.begin_epoch(0)
    for pending, fresh in zip(task._pending, task._fresh, strict=True):
        pending.fill_(3.0)
        fresh.fill_(2 * 0.5)  # of half of the batch, weighted by the number of workers
    kept = [pending.clone() for pending in task._pending]
    task.between_steps(2, Other())  # a round of six ends at step two of eight, and another with it
    assert all(bool((score == 0.5 * 4.0).all()) for score in task._score), "half of it is carried on"
    assert not any(bool(tensor.any()) for tensor in (*task._pending, *task._fresh))
