"""The fast step against the plain way to write it (`benchmarks/plain_step.py`)."""

import copy
import dataclasses
import importlib.util
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Splits
from raysp.engine.workers import ALONE
from raysp.models import MODELS
from raysp.models.collapse import fold_batchnorm
from raysp.models.layout import hold_in_bfloat16
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, FinetuneTask
from raysp.stages.student import grow_shallow_branches
from raysp.training.batches import Batches
from raysp.training.recipes import Recipe
from raysp.training.step import Step

DATA = DataConfig(name="cifar10", num_classes=10, image_size=16, crop_padding=2)
EXPERIMENT = Experiment(data=DATA, model="resnet18", width=4)
LR = 1e-3
CONFIG = FinetuneConfig(experiment=EXPERIMENT, recipe=Recipe(lr=LR), beta=10.0)


def plain_step():
    spec = importlib.util.spec_from_file_location("plain_step", Path(__file__).parents[2] / "benchmarks" / "plain_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_splits():
    random = np.random.default_rng(0)
    part = Part(images=random.integers(0, 256, (640, 3, 16, 16), dtype=np.uint8), labels=random.integers(0, 10, 640))
    return Splits(train=part, val=part, test=part, mean=[128.0] * 3, std=[64.0] * 3)


def used_network():
    """With running statistics as if it had been trained."""
    network = EXPERIMENT.build("baseline")
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(32, 3, 16, 16))
    return network


@pytest.mark.parametrize("gate", [None, 0.5, 1.0])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_twenty_steps_are_those_of_the_plain_way(gate, dtype, near, monkeypatch):
    plain = plain_step()
    monkeypatch.setattr(plain, "BETA", CONFIG.beta)
    torch.manual_seed(0)
    teacher = used_network()
    student = copy.deepcopy(teacher)
    for layer in student.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.3)
    if gate is not None:
        assert len(grow_shallow_branches(student, 0.5, 3)) == 8
        student.set_gates(gate)
    folded = EXPERIMENT.teacher(teacher.state_dict(), torch.device("cpu"))
    for network in (student, teacher):
        network.to(dtype)
    if dtype == torch.float64:  # folded in double too
        folded = fold_batchnorm(teacher)
    splits = random_splits()
    slow = plain.PlainStep(
        plain.plainly(copy.deepcopy(student)),
        plain.plainly(copy.deepcopy(teacher)),
        splits,
        batch_size=32,
        lr=LR,
        loader_workers=0,
        device=torch.device("cpu"),
    )
    fast = Step(FinetuneTask(student.train(), folded, CONFIG, any_gated=gate is not None), CONFIG.recipe, ALONE)
    for images, labels, share in islice(Batches(DATA, splits, torch.device("cpu")).train(32, 0, 0), 20):
        ours = fast(images.to(dtype), labels, share)
        theirs = slow.train_on(images.to(dtype).contiguous(), labels)
    torch.testing.assert_close(ours, theirs, rtol=10 * near, atol=0)
    mine, other = (torch.cat([p.detach().flatten() for p in network.parameters()]) for network in (student, slow.student))
    assert float((mine - other).norm() / other.norm()) < near


@pytest.mark.parametrize(("most", "is_shorter"), [(0.1, True), (1e6, False)])
def test_a_long_gradient_is_shortened_and_a_short_one_left(most, is_shorter):
    moved = {}
    start = used_network()
    for max_gradient in (None, most):
        recipe = dataclasses.replace(CONFIG.recipe, lr=0.01, weight_decay=0.0, max_gradient=max_gradient)
        student = copy.deepcopy(start).train()
        task = FinetuneTask(student, EXPERIMENT.teacher(start.state_dict(), torch.device("cpu")), CONFIG, any_gated=False)
        step = Step(task, recipe, ALONE)
        step.set_rate(recipe.lr)
        step(*next(Batches(DATA, random_splits(), torch.device("cpu")).train(32, 0, 0)))
        moved[max_gradient] = torch.cat(
            [(p - q).detach().flatten() for p, q in zip(student.parameters(), start.parameters(), strict=True)]
        )
    whole, short = moved[None], moved[most]
    assert float(torch.cosine_similarity(whole, short, dim=0)) == pytest.approx(1.0, abs=1e-4)
    expected = 0.01 * most if is_shorter else float(whole.norm())
    assert float(short.norm()) == pytest.approx(expected, rel=1e-3) and (float(whole.norm()) > expected) == is_shorter


def test_a_step_leaves_no_map_in_another_layout():
    """A map in NCHW among others costs more than everything that the layout gains."""
    student = used_network()
    layouts = []
    task = FinetuneTask(student.train(), EXPERIMENT.teacher(student.state_dict(), torch.device("cpu")), CONFIG, any_gated=False)

    def look(module, inputs, output):
        output.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=torch.channels_last)))
        layouts.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in student.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(look)
    images, labels, share = next(Batches(DATA, random_splits(), torch.device("cpu")).train(32, 0, 0))
    Step(task, CONFIG.recipe, ALONE)(images, labels, share)
    assert len(layouts) == 40 and all(layouts)


@pytest.mark.parametrize("gate", [None, 0.5])
@pytest.mark.parametrize("pram", ["attention", "eq2"])
def test_steps_in_bf16_are_near_those_in_fp32_and_keep_their_state_in_fp32(gate, pram):
    torch.manual_seed(0)
    teacher = used_network()
    start = copy.deepcopy(teacher)
    for layer in start.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.3)
    if gate is not None:
        grow_shallow_branches(start, 0.5, 3)
        start.set_gates(gate)
    losses, steps = {}, {}
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(CONFIG, pram=pram, recipe=dataclasses.replace(CONFIG.recipe, precision=precision))
        student, kinds = copy.deepcopy(start).train(), set()
        student.module_at("stages.0.0.conv1").register_forward_hook(lambda m, i, output, kinds=kinds: kinds.add(output.dtype))
        task = FinetuneTask(student, EXPERIMENT.teacher(teacher.state_dict(), torch.device("cpu")), config, any_gated=True)
        steps[precision] = step = Step(task, config.recipe, ALONE)
        batches = Batches(DATA, random_splits(), torch.device("cpu")).train(32, 0, 0)
        losses[precision] = torch.stack([step(*batch) for batch in islice(batches, 20)])
        state = [*student.state_dict().values(), *(p.grad for p in student.parameters() if p.grad is not None)]
        state += [value for found in step.optimizer.state.values() for value in found.values() if isinstance(value, torch.Tensor)]
        assert {tensor.dtype for tensor in state} <= {torch.float32, torch.bool, torch.int64}
        assert losses[precision].dtype == torch.float32
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0)
    assert not torch.equal(losses["bf16"], losses["fp32"])


@pytest.mark.parametrize("name", ["resnet18", "wrn22-8"])
def test_a_teacher_held_in_bf16_computes_what_autocast_computed(name):
    experiment = dataclasses.replace(EXPERIMENT, model=name)
    teacher = experiment.teacher(experiment.build("baseline").state_dict(), torch.device("cpu"))
    images = torch.randn(8, DATA.channels, DATA.image_size, DATA.image_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = teacher(images)
        hold_in_bfloat16(teacher)
        found = teacher(images)
    assert torch.equal(found.logits["final"], expected.logits["final"])
    assert all(map(torch.equal, found.features, expected.features))
    assert teacher.module_at("stages.0.0.conv1").weight.dtype == torch.bfloat16


def test_a_step_of_the_largest_network_at_its_full_size():
    data = DataConfig(name="cifar100", num_classes=100, image_size=32, crop_padding=4)
    experiment = Experiment(data=data, model="wrn22-8", width=MODELS["wrn22-8"].default_width)
    config = dataclasses.replace(CONFIG, experiment=experiment, ac_after=(2,), ac_head="bottleneck")
    student = experiment.build("finetune").train()
    assert student.width == 128 and sum(layer.relu.size for layer in student.relu_layers()) == 1_392_640
    for layer in student.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.04)
    gated = grow_shallow_branches(student, 0.05, 3)
    student.add_exit(2, "bottleneck")
    student.set_gates(0.5)
    teacher = experiment.teacher(experiment.build("baseline").state_dict(), torch.device("cpu"))
    step = Step(FinetuneTask(student, teacher, config, any_gated=True), config.recipe, ALONE)
    loss = step(torch.randn(2, 3, 32, 32), torch.tensor([0, 99]), 1.0)
    assert len(gated) == 9 and torch.isfinite(loss)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())
