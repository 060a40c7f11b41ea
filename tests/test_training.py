"""The loop over epochs: learning rates, the choice of the best epoch, and a SIGTERM at any moment."""

import dataclasses

import parallel
import pytest
import torch

import raysp.training as training
from raysp.schedules import Recipe
from raysp.training import Task, Trained, _build_optimizer, train
from raysp.workers import ALONE

RECIPE = Recipe(epochs=4, milestones=(), batch_size=8, lr=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_extra_parameters_learn_at_their_own_share_of_the_rate_and_do_not_decay(optimizer):
    class Extra(Task):
        def extra_parameters(self):
            return {"slow": (slow, 0.5), "idle": (idle, 1.0)}

    slow, idle = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    task = Extra(parallel.network(0))
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, weight_decay=0.1)
    weight = task.model.stem_conv.weight
    before = weight.detach().clone()
    one = _build_optimizer(task, recipe)
    for group in one.param_groups:
        group["lr"] = 0.01 * group["lr_share"]
    weight.grad, slow.grad, idle.grad = torch.zeros_like(weight), torch.ones(1), torch.zeros(1)
    one.step()
    assert idle.item() == 1.0
    assert slow.item() == pytest.approx(1.0 - 0.005, abs=1e-6)
    assert not torch.equal(weight, before), "weights decay"


def test_every_group_follows_the_recipes_rate(monkeypatch):
    rates = []

    class Watched(_Scripted):
        def extra_parameters(self):
            return {"extra": (torch.ones(1, requires_grad=True), 0.5)}

        def after_step(self, optimizer):
            rates.append([group["lr"] for group in optimizer.param_groups])

    monkeypatch.setattr(training, "accuracy", lambda model, batches, part, workers: {"final": 1.0})
    recipe = dataclasses.replace(RECIPE, milestones=(2,))
    train(Watched(parallel.network(0)), recipe, 0, _OneBatch(), _NoContext())
    assert rates == [[pytest.approx(r), pytest.approx(r / 2)] for r in (0.1, 0.1, 0.01, 0.01)]


class _OneBatch:
    def train(self, batch_size, seed, epoch, workers, first):
        images = torch.randn(12, 1, 8, 8)
        yield images, torch.zeros(12, dtype=torch.long), 1.0

    def num_batches(self, batch_size):
        return 1


class _NoContext:
    workers = ALONE
    sync_batchnorm = False

    def load_checkpoint(self):
        return None

    def save_checkpoint(self, tensors, state):
        pass

    def report(self, figures):
        pass


class _Scripted(Task):
    """Counts what is evaluated; epoch 1 is the best but not eligible."""

    def eligible(self, epoch):
        return epoch != 1

    def loss(self, images, labels):
        return sum(p.sum() for p in self.model.parameters()) * 0.0


def test_the_best_eligible_epoch_is_chosen_on_the_validation_part_alone(monkeypatch):
    parts, scores = [], iter([40.0, 90.0, 60.0, 60.0])
    monkeypatch.setattr(training, "accuracy", lambda model, batches, part, workers: parts.append(part) or {"final": next(scores)})

    trained = train(_Scripted(parallel.network(0)), RECIPE, 0, _OneBatch(), _NoContext())
    assert isinstance(trained, Trained)
    assert parts == ["val"] * 4
    assert (trained.best_epoch, trained.val_accuracy) == (4, {"final": 60.0}), "the later of two equals"
