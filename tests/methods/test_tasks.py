"""What each stage's task computes in a step and between epochs, against slow references on hand-made states."""

import dataclasses

import pytest
import reference
import torch
from torch.nn import functional as F

from raysp.data.config import DataConfig
from raysp.methods.choices import SnlConfig
from raysp.methods.distillation import StudentTask
from raysp.methods.positions import layer_mask, top_positions
from raysp.methods.scores import ScoreTask
from raysp.methods.snl import SnlTask
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, FinetuneTask
from raysp.stages.mask import MaskConfig
from raysp.stages.sensitivity import SensitivityConfig, SparseTask
from raysp.stages.student import grow_shallow_branches
from raysp.training.recipes import Recipe

DATA = DataConfig(name="digits", num_classes=5, channels=1, image_size=8)
RECIPE = Recipe(epochs=4, milestones=(), batch_size=8, lr=0.1)


def experiment(model="resnet18"):
    return Experiment(data=DATA, model=model, width=4, seed=1)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 1, 8, 8, generator=generator), torch.randint(0, 5, (12,), generator=generator)


def masked_student(share=0.3):
    student = experiment().build("student")
    for layer in student.relu_layers():
        layer.relu.set_mask(top_positions(torch.rand(layer.relu.shape), round(share * layer.relu.size)))
    return student


def buffers(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("pram", "reference_pram"), [("attention", reference.pram_attention), ("eq2", reference.pram_eq2)])
def test_the_fine_tuning_loss_is_equation_2_for_every_exit(pram, reference_pram):
    student, teacher = masked_student(), experiment().build("teacher")
    student.add_exit(3, "pool")
    config = FinetuneConfig(experiment=experiment(), recipe=RECIPE, gate_epochs=0, kl_weight=0.7, beta=30.0, rho=2.0, pram=pram)
    task = FinetuneTask(student, teacher, config, any_gated=False)
    task.begin_epoch(0)
    images, labels = batch()
    student.eval()  # so that the reference below sees the same statistics
    before = buffers(teacher)
    got = task.loss(images, labels)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items()), (
        "the teacher must stay as it is"
    )
    assert not any(p.requires_grad for p in teacher.parameters())
    out, target = student(images), teacher(images)
    want = 30.0 * reference_pram(out.features, target.features)
    for exit_name in ("final", "ac3"):
        logits = out.logits[exit_name]
        want = want + 0.7 * reference.distillation_kl(logits, target.logits["final"], 2.0) + 0.3 * F.cross_entropy(logits, labels)
    torch.testing.assert_close(got, want)


def test_the_gate_follows_the_schedule_and_only_gates_at_1_are_eligible():
    student = masked_student(share=0.05)
    gated = grow_shallow_branches(student, 0.1, 3)
    config = FinetuneConfig(experiment=experiment(), recipe=RECIPE, gate_epochs=2)
    task = FinetuneTask(student, experiment().build("teacher"), config, any_gated=True)
    for epoch, gamma in enumerate((0.0, 0.5, 1.0, 1.0)):
        task.begin_epoch(epoch)
        assert {block.gate for name, block in student.gated_blocks() if name in gated} == {gamma}
        assert task.eligible(epoch) == (gamma == 1.0)
    plain = FinetuneTask(student, experiment().build("teacher"), config, any_gated=False)
    assert plain.eligible(0)


def score_task(student, teacher, score="senet", granularity="pixel", num_updates=4):
    return ScoreTask(student, teacher, kl_weight=0.4, rho=3.0, score=score, granularity=granularity, num_updates=num_updates)


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
@pytest.mark.parametrize("score_name", ["senet", "counterfactual"])
def test_a_mask_update_takes_the_top_of_the_summed_score(score_name, granularity):
    student, teacher = experiment().build("student"), experiment().build("teacher")
    for layer in student.relu_layers():
        mask = layer_mask(torch.rand(layer.relu.shape), round(0.3 * layer.relu.size), granularity)
        layer.relu.set_mask(mask)
    maps: dict = {}
    for name, model in (("student", student), ("teacher", teacher)):
        for layer in model.relu_layers():

            def keep(_, inputs, key=(name, layer.name)):
                maps[key] = [inputs[0].detach().clone()]

            def keep_output(_, inputs, out, key=(name, layer.name)):
                maps[key].append(out.detach())

            layer.relu.register_forward_pre_hook(keep)
            layer.relu.register_forward_hook(keep_output)
    task = score_task(student, teacher, score_name, granularity)
    task.begin_epoch(0)
    scores = {layer.name: torch.zeros(layer.relu.shape) for layer in student.relu_layers()}
    kept = {layer.name: layer.relu.kept for layer in student.relu_layers()}
    before = buffers(teacher)
    student.train()
    for seed in (0, 1, 2):
        images, labels = batch(seed)
        student_state = buffers(student)
        got = task.loss(images, labels)
        for name, score in scores.items():
            for image in range(len(images)):
                if score_name == "senet":
                    score += (maps["teacher", name][1][image] - maps["student", name][1][image]).abs()
                else:
                    score += (maps["student", name][0][image] * -1).clamp_min(0)
        student.load_state_dict(student_state)
        out, target = student(images).logits["final"], teacher(images).logits["final"]
        want = 0.6 * F.cross_entropy(out, labels) + 0.4 * reference.distillation_kl(out, target, 3.0)
        torch.testing.assert_close(got, want)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items()), (
        "the teacher must stay as it is"
    )
    old = {layer.name: layer.relu.mask.clone() for layer in student.relu_layers()}
    figures = task.end_epoch(0, None)
    changed = 0
    for layer in student.relu_layers():
        assert layer.relu.kept == kept[layer.name]
        score, mask = scores[layer.name], layer.relu.mask
        if granularity == "channel":
            assert all(bool(channel.all()) or not bool(channel.any()) for channel in mask)
            score, mask = score.sum(dim=(1, 2)), mask[:, 0, 0]
        if mask.any() and not mask.all():
            assert score[mask].min() >= score[~mask].max() - 1e-3
        changed += int((layer.relu.mask & ~old[layer.name]).sum())
    assert figures["mask_changed"] == changed / sum(kept.values()) > 0


@pytest.mark.parametrize(("num_updates", "updates"), [(3, [True, True, True, False]), (2, [True, True, False, False])])
def test_the_mask_freezes_after_its_last_update(num_updates, updates):
    student = masked_student()
    task = score_task(student, experiment().build("teacher"), num_updates=num_updates)
    for epoch, expected in enumerate(updates):
        task.begin_epoch(epoch)
        student.train()
        task.loss(*batch(epoch))
        before = buffers(student)
        task.end_epoch(epoch, None)
        moved = any(not torch.equal(t, before[name]) for name, t in student.state_dict().items() if name.endswith(".mask"))
        assert moved == expected


@pytest.mark.parametrize(("share", "updated"), [(0.0, 3), (0.5, 2), (1.0, 0)])
def test_the_frozen_share_is_the_last_epochs_and_at_least_one(share, updated):
    assert MaskConfig(experiment=experiment(), recipe=RECIPE, budget=100, frozen_share=share).updated_epochs == updated


def test_a_random_mask_never_changes():
    student = masked_student()
    task = StudentTask(student, experiment().build("teacher"), kl_weight=0.5, rho=4.0)
    masks = [layer.relu.mask.clone() for layer in student.relu_layers()]
    student.train()
    task.begin_epoch(0)
    task.loss(*batch())
    assert task.end_epoch(0, None) == {"mask_changed": 0.0}
    assert all(torch.equal(mask, layer.relu.mask) for mask, layer in zip(masks, student.relu_layers(), strict=True))


def snl_task(budget=200, granularity="pixel", max_epochs=3, **config):
    student = experiment().build("student")
    search = SnlConfig(**{"penalty": 0.01, **config})
    return SnlTask(
        student,
        experiment().build("teacher"),
        search,
        budget=budget,
        granularity=granularity,
        rho=2.0,
        max_epochs=max_epochs,
    )


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_snls_loss_and_the_gradient_of_alpha(granularity):
    task = snl_task(granularity=granularity)
    images, labels = batch()
    alphas = {name: alpha for name, (alpha, _) in task.extra_parameters().items()}
    for alpha in alphas.values():
        alpha.data.uniform_(0.2, 1.0)
    got = task.loss(images, labels)

    def soften(module, inputs, output):
        name = next(layer.name for layer in task.model.relu_layers() if layer.relu is module)
        alpha = alphas[f"alpha.{name}"]
        return alpha * torch.relu(inputs[0]) + (1 - alpha) * inputs[0]

    handles = [layer.relu.register_forward_hook(soften) for layer in task.model.relu_layers()]
    student_nk = task.model(images).logits["final"]
    for handle in handles:
        handle.remove()
    teacher_nk = task._teacher(images).logits["final"]
    sizes = {f"alpha.{layer.name}": layer.relu.shape for layer in task.model.relu_layers()}
    penalty = sum(alpha.expand(sizes[name]).abs().sum() for name, alpha in alphas.items())
    want = F.cross_entropy(student_nk, labels) + reference.distillation_kl(student_nk, teacher_nk, 2.0) + 0.01 * penalty
    torch.testing.assert_close(got, want)
    for g, w in zip(
        torch.autograd.grad(got, list(alphas.values())), torch.autograd.grad(want, list(alphas.values())), strict=True
    ):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_snl_ends_its_search_with_the_largest_alphas_of_the_whole_network(granularity):
    task = snl_task(granularity=granularity)
    alphas = {name.removeprefix("alpha."): alpha for name, (alpha, _) in task.extra_parameters().items()}
    torch.manual_seed(0)
    for alpha in alphas.values():
        alpha.data.uniform_(0.1, 1.0)
    assert task.searching
    assert not task.eligible(0)
    first = task.end_epoch(0, None)
    assert first["snl_count"] == task.model.num_relus()
    assert task.searching, "nothing has fallen yet"
    assert task.end_epoch(1, None)["snl_penalty"] == pytest.approx(0.011), "grown, because the count had stopped falling"
    task.end_epoch(2, None)
    assert not task.searching, "three epochs at most"
    assert task.eligible(3)
    layers = task.model.relu_layers()
    kept = sum(layer.relu.kept for layer in layers)
    assert kept in ([200] if granularity == "pixel" else [199, 200])
    chosen, left = [], []
    for layer in layers:
        values = alphas[layer.name].detach().expand(layer.relu.shape)
        chosen.append(values[layer.relu.mask])
        left.append(values[~layer.relu.mask])
        assert layer.relu.alpha is None
    if granularity == "pixel":
        assert torch.cat(chosen).min() >= torch.cat(left).max()


def test_snl_stops_searching_once_the_count_is_under_the_budget():
    task = snl_task(budget=300, max_epochs=100)
    torch.manual_seed(0)
    for alpha, _ in task.extra_parameters().values():
        alpha.data.copy_((torch.rand(alpha.shape) < 0.01).float())
    assert task.end_epoch(0, None)["snl_count"] <= 300
    assert not task.searching
    assert sum(layer.relu.kept for layer in task.model.relu_layers()) == 300


def test_equal_scores_go_to_earlier_positions():
    assert top_positions(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [False, True, True, False]


def sparse_task(**changes):
    model = experiment().build("sparse")
    config = dataclasses.replace(SensitivityConfig(experiment=experiment(), recipe=RECIPE), **changes)
    task = SparseTask(model, config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for seed in (0, 1):
        optimizer.zero_grad()
        task.loss(*batch(seed)).backward()
        optimizer.step()
        task.after_step(optimizer)
    return task, optimizer


def weights_of(task):
    return {name: m.weight.detach().clone().flatten() for name, m in task.model.named_modules() if name in task.alive}


def test_rewiring_prunes_the_smallest_and_regrows_where_the_momentum_is_largest():
    task, optimizer = sparse_task()
    before = {name: alive.clone() for name, alive in task.alive.items()}
    weights = weights_of(task)
    assert all(torch.equal(weights[name] != 0, alive) for name, alive in before.items())
    task.end_epoch(0, optimizer)
    rate = 0.5 * 0.5 * (1 + 2**-0.5)  # cos(π/4)
    assert sum(int(a.sum()) for a in task.alive.values()) == sum(int(a.sum()) for a in before.values())
    for name, alive in task.alive.items():
        momentum = optimizer.state[dict(task.model.named_parameters())[f"{name}.weight"]]["momentum_buffer"].flatten().abs()
        count = round(rate * int(before[name].sum()))
        pruned = sorted(weights[name][before[name]].abs().tolist())[:count]
        survivors = before[name] & (weights[name].abs() > (pruned[-1] if pruned else -1))
        assert torch.equal(alive & survivors, survivors), "a large weight was pruned"
        grown, still_dead = alive & ~survivors, ~alive
        if grown.any() and still_dead.any():
            assert momentum[grown].min() >= momentum[still_dead].max()
        assert torch.count_nonzero(weights_of(task)[name][~alive]) == 0


def test_no_layer_grows_denser_than_allowed_so_every_sensitivity_is_above_0():
    task, optimizer = sparse_task(density=0.5, max_density=0.6)
    for epoch in (0, 1, 2, 3):
        task.end_epoch(epoch, optimizer)
    assert max(float(alive.float().mean()) for alive in task.alive.values()) <= 0.6
