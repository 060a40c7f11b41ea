"""What a GPU computes, against a CPU; skipped where there is none."""

import pytest
import torch

from raysp.data.config import DataConfig
from raysp.models.network import Network
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, FinetuneTask, grow_shallow_branches
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
