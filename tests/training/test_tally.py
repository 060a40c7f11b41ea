"""What a model has right of a part of the data, by class: against a loop over images, and the old sum over all of them."""

from types import SimpleNamespace

import pytest
import torch
from parallel import DATA
from torch import nn

from raysp.data.sources import Part, Splits
from raysp.engine.workers import Workers
from raysp.training.batches import Batches
from raysp.training.loop import accuracy, tally

EXITS = ("final", "ac1", "ac2")


class Guesser(nn.Module):
    """Several exits, each a linear guess, which an untrained network's aren't: it takes all images for one class."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.exits = nn.ModuleDict({name: nn.Linear(64, 4) for name in EXITS})

    def forward(self, images):
        return SimpleNamespace(logits={name: guess(images.flatten(1)) for name, guess in self.exits.items()})


@pytest.fixture(scope="module")
def model():
    return Guesser()


@pytest.fixture(scope="module")
def batches():
    """1,100 test images, more than two batches; the second of four classes has none in either part."""
    random = torch.Generator().manual_seed(0)

    def part(num):
        labels = torch.tensor([0, 2, 3])[torch.randint(3, (num,), generator=random)]
        images = torch.randint(0, 256, (num, 1, 8, 8), generator=random, dtype=torch.uint8)
        return Part(images=images.numpy(), labels=labels.numpy())

    return Batches(DATA, Splits(train=part(4), val=part(7), test=part(1100), mean=[0.5], std=[0.3]), torch.device("cpu"))


def one_by_one(model, batches, part):
    images, right = [0] * 4, {name: [0] * 4 for name in EXITS}
    model.eval()
    with torch.inference_mode():
        for image, label in batches.in_order(part, batch_size=1):
            images[int(label)] += 1
            for name, logits in model(image).logits.items():
                right[name][int(label)] += int(logits.argmax()) == int(label)
    return images, right


@pytest.mark.parametrize("part", ["val", "test"])
def test_it_is_what_a_loop_over_images_counts(model, batches, part):
    found = tally(model, batches, part)
    assert (found.images, found.right) == one_by_one(model, batches, part)
    assert found.images[1] == 0 and sum(found.images) == batches.num_images(part)
    assert part == "val" or any(
        0 < hits < of for right in found.right.values() for hits, of in zip(right, found.images, strict=True)
    )


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_accuracy_is_bit_for_bit_the_share_of_all_images(model, batches, part):
    hits, total = dict.fromkeys(EXITS, 0), 0
    with torch.inference_mode():
        for images, labels in batches.in_order(part):
            total += len(labels)
            for name, logits in model.eval()(images).logits.items():
                hits[name] += int((logits.argmax(dim=1) == labels).sum())
    assert accuracy(model, batches, part) == {name: 100.0 * float(count) / total for name, count in hits.items()}


def test_a_pass_is_one_pass(model, batches, monkeypatch):
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda images: seen.append(len(images)) or forward(images))
    tally(model, batches, "test")
    assert seen == [512, 512, 76]


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("size", [2, 4])
def test_workers_pieces_add_up_to_the_whole(model, batches, part, size, monkeypatch):
    """Seven images are too few for four workers: each sees all, and none counts twice."""
    pieces = [_counts(model, batches, part, Workers(rank, size), monkeypatch) for rank in range(size)]
    whole = [sum(values) for values in zip(*pieces, strict=True)]

    def sum_(self, *tensors):
        for tensor, total in zip(tensors, whole, strict=True):
            tensor.copy_(total)

    alone = tally(model, batches, part)
    monkeypatch.setattr(Workers, "sum_", sum_)
    assert all(tally(model, batches, part, Workers(rank, size)) == alone for rank in range(size))


class _Handed(Exception):
    """What a worker hands over to be summed, before any is."""


def _counts(model, batches, part, workers, monkeypatch):
    def sum_(self, *tensors):
        raise _Handed(*tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "sum_", sum_)
        with pytest.raises(_Handed) as handed:
            tally(model, batches, part, workers)
    return handed.value.args
