"""Students of a frozen all-ReLU (AR) teacher: what the tasks of mask methods and fine-tuning share, and the control that learns
no mask.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raysp.methods.losses import distillation_kl
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.training.task import Task


class TaughtTask(Task):
    """What all students of a frozen AR teacher share.

    Args:
        student: what is trained.
        teacher: frozen here, on the same device.
        rho: distillation temperature, above 0.
    """

    def __init__(self, student: Network, teacher: Network, rho: float) -> None:
        super().__init__(student)
        self._teacher = teacher.eval().requires_grad_(False)
        self._rho = rho

    def networks(self) -> list[Network]:
        """The student and its teacher."""
        return [self.model, self._teacher]

    def terms(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """CE of the student, and its KL from the teacher."""
        with torch.no_grad():
            teacher_nk = self._teacher(images).logits[FINAL]
        student_nk = self.model(images).logits[FINAL]
        return F.cross_entropy(student_nk, labels), distillation_kl(student_nk, teacher_nk, self._rho)


class StudentTask(TaughtTask):
    """Distillation from the AR teacher with masks that never change: what the `random` method trains.

    Args:
        student: its masks hold the layers' counts already.
        teacher: frozen, on the same device.
        kl_weight: of the distillation term, in [0, 1]; cross-entropy has the rest.
        rho: distillation temperature, above 0.
    """

    def __init__(self, student: Network, teacher: Network, *, kl_weight: float, rho: float) -> None:
        super().__init__(student, teacher, rho)
        self._kl_weight = kl_weight

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """(1 − w)·CE + w·KL."""
        entropy, distilled = self.terms(images, labels)
        return (1.0 - self._kl_weight) * entropy + self._kl_weight * distilled

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Report that nothing of the mask changed."""
        return {"mask_changed": 0.0}
