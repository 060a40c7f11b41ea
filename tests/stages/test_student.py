"""A fine-tuning's student before its first step: its gates and heads."""

import pytest
import torch
from quick import builder

from raysp.data.sources import load_splits, open_source
from raysp.methods.choices import Choice
from raysp.methods.positions import top_positions
from raysp.stages.student import grow_shallow_branches


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_heads_are_fitted_with_the_gates_that_training_starts_with(gamma, monkeypatch):
    from raysp.stages import student as students
    from raysp.training.batches import Batches

    seen = []
    fit = students.fit_heads

    def watch(student, *others):
        seen.extend(block.gate for _, block in student.gated_blocks() if block.shallow is not None)
        return fit(student, *others)

    monkeypatch.setattr(students, "fit_heads", watch)
    config = builder().chain(Choice(budget=0.1, d_th=1.0, ac_after=(3,))).config
    student, teacher = config.experiment.build("test"), config.experiment.build("teacher")
    grow_shallow_branches(student, 1.0, 3)
    student.add_exit(3, "pool")
    source = open_source("digits", None, None)
    batches = Batches(source.config, load_splits(source), torch.device("cpu"))
    students.start_heads(student, teacher, batches, gamma, 0)
    assert set(seen) == {gamma}
    assert {block.gate for _, block in student.gated_blocks()} == {1.0}, "what they are worth is asked of what is deployed"


def test_blocks_are_gated_up_to_and_with_the_threshold():
    model = builder().baseline(0).config.experiment.build("test")
    for index, share in enumerate((0.0, 0.1, 0.11, 1.0, 0.1, 0.5, 0.05, 0.2)):
        relu = model.gated_blocks()[index][1].inner_relu
        relu.set_mask(top_positions(torch.rand(relu.shape), round(share * relu.size)))
    kept = [block.inner_relu.kept / block.inner_relu.size for _, block in model.gated_blocks()]
    gated = grow_shallow_branches(model, 0.1, 3)
    assert gated == [name for (name, _), d in zip(model.gated_blocks(), kept, strict=True) if d <= 0.1]
    assert 0 < len(gated) < 8
    assert grow_shallow_branches(builder().baseline(0).config.experiment.build("test"), None, 3) == []
    exact = builder().baseline(0).config.experiment.build("test")
    first = exact.gated_blocks()[0][1].inner_relu
    first.set_mask(top_positions(torch.rand(first.shape), first.size // 4))
    assert grow_shallow_branches(exact, 0.25, 3) == ["stages.0.0"]


@pytest.mark.parametrize("start", ["random", "least-squares"])
def test_starts_are_judged_with_all_gates_at_1(start, monkeypatch):
    from raysp.stages import student as students
    from raysp.training.batches import Batches

    seen = []
    measure = students.accuracy

    def watch(model, batches, part):
        seen.append(({block.gate for _, block in model.gated_blocks() if block.shallow is not None}, part))
        return measure(model, batches, part)

    monkeypatch.setattr(students, "accuracy", watch)
    config = builder().chain(Choice(budget=0.1, d_th=1.0, gb_init=start)).config
    student = config.experiment.build("test")
    grow_shallow_branches(student, 1.0, 3)
    source = open_source("digits", None, None)
    batches = Batches(source.config, load_splits(source), torch.device("cpu"))
    found = students.start_branches(student, batches, config.gb_init, config.recipe.batch_size, 0)
    assert seen == [({1.0}, "val")]
    assert ("fit_r2" in found) == (start == "least-squares")
