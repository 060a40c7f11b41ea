"""A step of fine-tuning as one would first write it, for `step.py` to compare with.

Everything is torch's and torchvision's own: a DataLoader with transforms, maps in NCHW, float32, masks multiplied in, batch norms
of the teacher computed, losses and SGD by their names.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raysp.data.sources import Splits
from raysp.models.network import Network
from raysp.models.relu import MaskedReLU

BETA, KL_WEIGHT, RHO = 1000.0, 0.9, 4.0


class ProductReLU(nn.Module):
    """M·relu(x) + (1 − M)·x, as it is written."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Apply to a batch."""
        return self.mask * F.relu(x_nchw) + (1 - self.mask) * x_nchw


class Images(Dataset[tuple[Tensor, int]]):
    """A data set's training part, image by image."""

    def __init__(self, splits: Splits) -> None:
        self._images, self._labels = splits.train.images, splits.train.labels
        mean, std = [m / 255 for m in splits.mean], [s / 255 for s in splits.std]
        self._transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(self._images.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(torch.from_numpy(self._images[index].copy())), int(self._labels[index])


def plainly(network: Network) -> Network:
    """Replace every masked ReLU in place: by torch's where all are kept, else by the product; and lay weights out as NCHW."""
    for name, module in list(network.named_modules()):
        if isinstance(module, MaskedReLU):
            network.set_submodule(name, nn.ReLU() if module.kept == module.size else ProductReLU(module.mask))
    return network.to(memory_format=torch.contiguous_format)


class PlainStep:
    """Steps of fine-tuning, the loading of their images included.

    Args:
        student: what is trained.
        teacher: what it is compared to.
        splits: images in memory.
        batch_size: images per step.
        lr: learning rate.
        loader_workers: processes that transform images; 0 does it between the steps.
        device: where the networks are.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        splits: Splits,
        *,
        batch_size: int,
        lr: float,
        loader_workers: int,
        device: torch.device,
    ) -> None:
        self.student, self._teacher, self._device = student.train(), teacher.eval(), device
        self._optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        self._loader = DataLoader(
            Images(splits),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=loader_workers,
            persistent_workers=loader_workers > 0,
            pin_memory=device.type == "cuda",
        )
        self._batches = self._forever()

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._loader

    def __call__(self) -> None:
        """Load a batch and train on it."""
        images, labels = next(self._batches)
        self.train_on(images.to(self._device), labels.to(self._device))

    def train_on(self, images: Tensor, labels: Tensor) -> Tensor:
        """Train on a batch; returns the loss before the step."""
        with torch.no_grad():
            target = self._teacher(images)
        output = self.student(images)
        student_nk, teacher_nk = output.logits["final"], target.logits["final"]
        distilled = F.kl_div(F.log_softmax(student_nk / RHO, 1), F.softmax(teacher_nk / RHO, 1), reduction="batchmean") * RHO**2
        loss = KL_WEIGHT * distilled + (1 - KL_WEIGHT) * F.cross_entropy(student_nk, labels)
        for ours, theirs in zip(output.features, target.features, strict=True):
            loss = loss + BETA * (attention(ours) - attention(theirs)).pow(2).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()


def attention(x_nchw: Tensor) -> Tensor:
    """A map's mean square over channels, flattened and of length 1 per image."""
    return F.normalize(x_nchw.pow(2).mean(1).flatten(1))
