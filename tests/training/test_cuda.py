"""What a GPU computes, against a CPU and, where it repeats recorded steps, against itself; skipped where there is none."""

import copy

import numpy as np
import pytest
import recorded
import torch
from rich.console import Console

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Splits
from raysp.engine.calibration import random_images
from raysp.engine.context import Place
from raysp.engine.inline import run_inline
from raysp.engine.progress import Progress
from raysp.methods.choices import Choice
from raysp.methods.least_squares import fit_shallow_branches
from raysp.models import build_model
from raysp.models.network import Network
from raysp.planning.plan import JobQueue, Plan
from raysp.stages.chain import ChainBuilder
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, FinetuneTask
from raysp.stages.presets import PRESETS
from raysp.stages.student import grow_shallow_branches
from raysp.store.keys import key_of
from raysp.store.records import Store
from raysp.training.recipes import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def loss_and_gradient(device, dtype, *, autocast=False):
    torch.manual_seed(0)
    data = DataConfig(name="cifar100", num_classes=100, image_size=16)
    config = FinetuneConfig(experiment=Experiment(data=data, model="resnet18", width=16), recipe=Recipe(lr=0.01), beta=100.0)
    student = config.experiment.build("student")
    for layer in student.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.1)
    assert grow_shallow_branches(student, 0.2, 3)
    teacher: Network = config.experiment.teacher(config.experiment.build("baseline").state_dict(), torch.device("cpu"))
    task = FinetuneTask(student.to(device, dtype), teacher.to(device, dtype), config, any_gated=True)
    student.train().set_gates(0.5)
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    labels = torch.arange(64, device=device)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        loss = task.loss(images, labels)
    loss.backward()
    return loss.item(), torch.cat([p.grad.double().cpu().flatten() for p in student.parameters() if p.grad is not None])


@pytest.mark.parametrize(("tf32", "autocast", "loss_off", "gradient_off"), [
    (False, False, 1e-5, 1e-4), (True, False, 1e-3, 2e-2), (False, True, 5e-3, 1e-1),
])  # fmt: skip
def test_a_step_of_fine_tuning_is_the_cpus(monkeypatch, tf32, autocast, loss_off, gradient_off):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    expected, exact = loss_and_gradient("cpu", torch.float64)
    loss, gradient = loss_and_gradient("cuda", torch.float32, autocast=autocast)
    assert loss == pytest.approx(expected, rel=loss_off)
    assert (gradient - exact).norm() < gradient_off * exact.norm()


STOPS = (2, 5, 7, 12, 20)
"""Of seven steps an epoch: while warming up, after replays, at an epoch's end."""


@pytest.fixture
def deterministic(monkeypatch):
    """Some of cuDNN's algorithms add up in any order, so that no two runs are alike."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)


def assert_replayed(train, **options):
    """That recorded steps train bit for bit what others do, stopped and resumed or not."""
    eager = train(uses_graph=False, stops=STOPS, **options)
    assert not recorded.difference(train(uses_graph=False, stops=STOPS, **options), eager), "even eager steps differ between runs"
    found = recorded.difference(train(uses_graph=True, stops=STOPS, **options), eager)
    assert not found, f"stopped and resumed: {found}"
    found = recorded.difference(train(uses_graph=True, **options)[-1:], eager[-1:])
    assert not found, f"undisturbed: {found}"


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", recorded.CASES)
def test_replayed_steps_train_bit_for_bit_what_others_do(case, precision):
    assert_replayed(recorded.of_case, case=case, precision=precision, device="cuda")


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_they_do_on_a_network_of_the_tables(precision):
    """ResNet18 with gates that open and close, and two auxiliary classifiers."""
    data = DataConfig(name="cifar100", num_classes=100, image_size=32, crop_padding=4)
    recipe = Recipe(epochs=4, milestones=(2,), batch_size=64, lr=0.01, precision=precision)
    experiment = Experiment(data=data, model="resnet18", width=16)
    config = FinetuneConfig(experiment=experiment, recipe=recipe, beta=100.0, gate_epochs=2)
    random = np.random.default_rng(0)
    part = Part(images=random.integers(0, 256, (400, 3, 32, 32), dtype=np.uint8), labels=random.integers(0, 100, 400))
    splits = Splits(train=part, val=part, test=part, mean=[128.0] * 3, std=[64.0] * 3)

    def make():
        teacher = experiment.build("baseline")
        student = experiment.build("student")
        student.load_state_dict(teacher.state_dict())
        for layer in student.relu_layers():
            layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.1)
        assert grow_shallow_branches(student, 0.2, 3)
        for stage in (2, 3):
            student.add_exit(stage, "bottleneck")
        teacher = experiment.teacher(teacher.state_dict(), torch.device("cuda"))
        return FinetuneTask(student.to("cuda"), teacher, config, any_gated=True), recipe

    assert_replayed(lambda **options: recorded.checkpoints(make, splits, data, "cuda", **options))


def test_a_checkpoint_of_a_cpu_is_taken_up(monkeypatch):
    """Adam's count of steps must lie where the fused optimizer reads it."""
    checkpoints = recorded.of_case("snl", uses_graph=False)
    for uses_graph in (False, True):
        context = recorded.Context("cuda", uses_graph=uses_graph)
        context.checkpoints = copy.deepcopy(checkpoints[:1])  # a training goes on in what it is given
        monkeypatch.setattr(recorded, "Context", lambda *a, context=context, **b: context)
        (tensors, state) = recorded.of_case("snl", device="cuda", uses_graph=uses_graph)[-1]
        assert [figures["epoch"] for figures in state["history"]] == [1, 2, 3, 4]
        assert {float(tensor) for name, tensor in tensors.items() if name.startswith("optimizer.step/")} <= {
            7.0,
            14.0,
            21.0,
            28.0,
        }


def test_a_presets_own_chain_is_trained(tmp_path):
    """Ranking, gates by loss, and heads that are fitted: what no step alone shows."""
    data = DataConfig(name="cifar100", num_classes=10, image_size=16, crop_padding=2)
    preset = PRESETS["cifar100"]
    build = ChainBuilder(preset, data, width=16, epochs_scale=0.05, precision="bf16")
    chosen = {field: values[0] for field, values in preset.axes.items()}
    plan = Plan([build.chain(Choice(**chosen))])
    splits = {key_of(data): random_images(data, {"train": 2048, "val": 256, "test": 256})}
    with Store(root=tmp_path).lock() as store:
        place = Place(store=store, num_threads=1, gpus=1.0, cuda_graph="on", splits=splits)
        progress = Progress(list(plan.stages.values()), lambda: 1, Console(quiet=True))
        outcome = run_inline(JobQueue(list(plan.stages.values())), place, progress)
        assert outcome.ok, outcome.failed
        assert [row["exit"] for row in store.read(*plan.leaves.values())["rows"]] == ["final", "ac3"]


@pytest.mark.usefixtures("deterministic")
def test_fits_are_the_cpus():
    """In closed form they stand no factors of ten bits."""
    generator = torch.Generator().manual_seed(0)
    images = 3.0 + 0.1 * torch.randn(512, 3, 16, 16, generator=generator)
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        student = build_model("resnet18", num_classes=10, image_size=16, width=32)
        for _, block in student.gated_blocks():
            block.inner_relu.set_mask(torch.rand(block.inner_relu.shape) < 0.1)
            block.add_shallow_branch(3)
        found[device] = fit_shallow_branches(student.to(device), [images.to(device)])
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.01)
    assert max(found["cuda"].values()) <= 1.0
