"""The convex start of auxiliary classifiers."""

import pytest
import torch
from networks import gated, outer_relu, with_dead_channel

from raysp.methods import head_fit
from raysp.methods.head_fit import MOST_IMAGES, RIDGE, TEACHER_SHARE, fit_heads, loss_and_gradient, most_images
from raysp.models import build_model
from raysp.models.exits import exit_name

NUM = 300


def batches(most=NUM, num=NUM, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num, 3, 16, 16, generator=generator)
    labels = torch.randint(0, 7, (num,), generator=generator)
    keep = min(most, num)
    return zip(torch.split(images[:keep], size), torch.split(labels[:keep], size), strict=True)


def networks(name="resnet18", head="grid", stages=(1, 2)):
    torch.manual_seed(5)
    student = gated(name, blocks=(0,))
    torch.manual_seed(6)
    teacher = gated(name, blocks=())
    for stage in stages:
        student.add_exit(stage, head)
    for parameter in teacher.module_at("heads.final").parameters():
        parameter.data.mul_(3.0)
    return student, teacher


def features(student, name, images):
    seen = []
    hook = student.module_at(f"heads.{name}")[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        student(images)
    hook.remove()
    return seen[0]


def objective(student, teacher, name, weight, bias):
    """What is to be least, written out: cross-entropy, the teacher's divergence, and the ridge on weights of scaled features."""
    images = torch.cat([x for x, _ in batches()])
    labels = torch.cat([y for _, y in batches()])
    x = features(student, name, images).double()
    with torch.no_grad():
        wanted = torch.log_softmax(teacher(images).logits["final"].double(), dim=1)
    found = torch.log_softmax(x @ weight.T + bias, dim=1)
    own = -found[torch.arange(NUM), labels].mean()
    divergence = (wanted.exp() * (wanted - found)).sum(dim=1).mean()
    ridge = 0.5 * RIDGE * (weight * x.std(dim=0, correction=0)).square().sum()
    return (1 - TEACHER_SHARE) * own + TEACHER_SHARE * divergence + ridge


@pytest.mark.parametrize(
    ("name", "head"), [("resnet18", "grid"), ("resnet18", "pool"), ("resnet18", "bottleneck"), ("wrn22-8", "grid")]
)
def test_no_gradient_is_left_of_the_objective_as_autograd_has_it(name, head):
    student, teacher = networks(name, head)
    start = {n: float(objective(student, teacher, n, *_weights(student, n)).detach()) for n in ("ac1", "ac2")}
    found = fit_heads(student, teacher, batches)
    assert list(found) == ["ac1", "ac2"]
    for exit_of_head, fit in found.items():
        weight, bias = (p.requires_grad_() for p in _weights(student, exit_of_head))
        value = objective(student, teacher, exit_of_head, weight, bias)
        assert float(value.detach()) < 0.9 * start[exit_of_head]
        spread = features(student, exit_of_head, torch.cat([x for x, _ in batches()])).double().std(dim=0, correction=0)
        by_weight, by_bias = torch.autograd.grad(value, (weight, bias))
        assert float(by_bias.abs().max()) < 1e-3
        scaled = by_weight / spread
        assert float(scaled[:, spread > 1e-5 * spread.max()].abs().max()) < 1e-3
        assert fit.gradient < 1e-3
        assert 1 < fit.steps <= 2 * head_fit.MOST_STEPS


def _weights(student, name):
    layer = student.module_at(f"heads.{name}")[-1]
    return layer.weight.detach().double(), layer.bias.detach().double()


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_loss_and_gradient_in_chunks_are_autograds(chunk, monkeypatch):
    monkeypatch.setattr(head_fit, "CHUNK", chunk)
    torch.manual_seed(0)
    x, logits = torch.randn(23, 6, dtype=torch.float64), torch.randn(23, 4, dtype=torch.float64)
    target = torch.softmax(logits, dim=1)
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    loss = -(target * torch.log_softmax(x @ weight.T + bias, dim=1)).sum() / 23
    want = torch.autograd.grad(loss + 0.5 * RIDGE * weight.square().sum(), (weight, bias))
    got = loss_and_gradient(x, target, weight.detach(), bias.detach())
    torch.testing.assert_close(got, (loss.detach(), *want))


def test_classes_that_features_tell_apart_are_told_apart():
    student, teacher = networks(head="pool", stages=(1,))
    layer = student.module_at("heads.ac1")[-1]
    images = torch.cat([x for x, _ in batches()])
    x = features(student, "ac1", images)
    labels = (x[:, 0] > x[:, 0].median()).long() + 2 * (x[:, 1] > x[:, 1].median()).long()
    teacher.module_at("heads.final")[-1].weight.data.zero_()  # so that only the labels say anything

    def right():
        return float((layer(x).argmax(dim=1) == labels).float().mean())

    assert right() < 0.6
    fit_heads(student, teacher, lambda most: [(images, labels)])
    assert right() > 0.85


def test_the_same_again_bit_for_bit_and_nothing_else_is_changed():
    results = []
    for _ in range(2):
        student, teacher = networks(head="grid")
        before = {name: t.clone() for model in (student, teacher) for name, t in model.state_dict().items()}
        fit = fit_heads(student.train(), teacher, batches)
        assert not student.training
        after = {name: t for model in (student, teacher) for name, t in model.state_dict().items()}
        changed = {name for name, t in after.items() if not torch.equal(t, before[name])}
        assert changed == {f"heads.{exit_name(s)}.{n}.{p}" for s, n in ((1, 2), (2, 2)) for p in ("weight", "bias")}
        results.append((fit, {name: after[name].clone() for name in changed}))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(t, results[1][1][name]) for name, t in results[0][1].items())


def test_the_start_matters_not():
    weights = []
    for seed in range(2):
        student, teacher = networks(head="grid", stages=(2,))
        torch.manual_seed(seed)
        torch.nn.init.normal_(student.module_at("heads.ac2")[-1].weight)
        fit_heads(student, teacher, batches)
        weights.append(student.module_at("heads.ac2")[-1].weight.detach().clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize(("name", "head"), [("wrn22-8", "pool"), ("wrn22-8", "grid"), ("resnet18", "bottleneck")])
def test_heads_with_batch_norms_compute_the_same_in_training_mode(name, head):
    student, teacher = networks(name, head, stages=(2,))
    fit_heads(student, teacher, lambda most: batches(size=NUM))
    images = torch.cat([x for x, _ in batches()])
    maps = []
    student.module_at("heads.ac2")[0].register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0].clone()))
    with torch.no_grad():
        evaluated = student(images).logits["ac2"]
        trained = student.module_at("heads.ac2").train()(maps[0])
    assert float((trained - evaluated).abs().max()) < 0.05 * float(evaluated.abs().max())
    assert all(m.momentum == 0.1 for m in student.module_at("heads.ac2").modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_a_constant_feature_gets_no_weight():
    student, teacher = networks(head="pool", stages=(1,))
    bn = student.module_at("stages.0.1.bn2")
    bn.weight.data[0], bn.bias.data[0] = 0.0, -50.0
    outer_relu(student, 1).set_mask(torch.ones(outer_relu(student, 1).shape, dtype=torch.bool))
    fit_heads(student, teacher, batches)
    layer = student.module_at("heads.ac1")[-1]
    assert torch.isfinite(layer.weight).all()
    assert layer.weight[:, 0].tolist() == [0.0] * 7
    assert float(layer.weight.detach()[:, 1:].abs().min()) > 0


def test_the_cache_holds_so_much_and_no_more(monkeypatch):
    layers = [torch.nn.Linear(1000, 2), torch.nn.Linear(24, 2)]
    assert most_images(layers) == MOST_IMAGES
    monkeypatch.setattr(head_fit, "CACHE_BYTES", 100 * 1024 * 4 + 5)
    assert most_images(layers) == 100
    monkeypatch.setattr(head_fit, "CACHE_BYTES", 1)
    assert most_images(layers) == 1


def test_no_images_are_refused():
    model = build_model("resnet18", num_classes=7, image_size=16, width=4)
    model.add_exit(1, "pool")
    with pytest.raises(ValueError, match="expected some thousand"):
        fit_heads(model, build_model("resnet18", num_classes=7, image_size=16, width=4), lambda most: [])


def test_products_are_of_full_precision_meanwhile():
    seen = []

    def some(most):
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return batches(most)

    torch.set_float32_matmul_precision("high")
    try:
        student, teacher = networks(head="grid")
        fit_heads(student, teacher, some)
        after = torch.backends.cuda.matmul.fp32_precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (set(seen), after) == ({"ieee"}, "tf32")


def test_a_channel_without_variance_does_no_harm():
    student, teacher = networks()
    with_dead_channel(student)
    fits = fit_heads(student, teacher, batches)
    assert all(fit.loss < 2 for fit in fits.values())
    assert all(t.isfinite().all() for t in student.state_dict().values() if t.is_floating_point())
