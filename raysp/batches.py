"""From images in memory to normalised, augmented batches on a device.

Owns the order of images and their random crops and flips. Contract: both follow from (seed, epoch) alone, so that a resumed run
sees what an undisturbed one sees; images stay uint8 until they are in a batch.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from raysp.data import DataConfig, Part, Splits

EVAL_BATCH = 512


class Batches:
    """A data set on a device.

    Args:
        config: says how training images are varied.
        splits: the decoded images.
        device: where they are kept, as uint8.
    """

    def __init__(self, config: DataConfig, splits: Splits, device: torch.device) -> None:
        self._config = config
        self._parts = {name: self._resident(part, device) for name, part in vars(splits).items() if isinstance(part, Part)}
        shape = (1, -1, 1, 1)
        self._scale = 1.0 / (255.0 * torch.tensor(splits.std, device=device).view(shape))
        self._shift = torch.tensor(splits.mean, device=device).view(shape) / torch.tensor(splits.std, device=device).view(shape)

    def num_batches(self, batch_size: int) -> int:
        """Training steps per epoch. A last batch of one image is left out: batch norm can't train on a single value."""
        full, rest = divmod(len(self._parts["train"][1]), batch_size)
        return full + (rest > 1)

    def train(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of the training part in random order: images (n, c, h, w) float, labels (n,)."""
        images, labels = self._parts["train"]
        generator = torch.Generator().manual_seed(_mix(seed, epoch))
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, self.num_batches(batch_size) * batch_size, batch_size):
            chosen = order[start : start + batch_size].to(labels.device)
            yield self._normalise(self._augment(images[chosen], generator)), labels[chosen]

    def in_order(self, part: str, batch_size: int = EVAL_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """The part "train", "val" or "test" as it is: images (n, c, h, w) float, labels (n,)."""
        images, labels = self._parts[part]
        for start in range(0, len(labels), batch_size):
            yield self._normalise(images[start : start + batch_size]), labels[start : start + batch_size]

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        num, channels, height, width = images.shape
        padding = self._config.crop_padding
        top, left = torch.randint(0, 2 * padding + 1, (2, num, 1), generator=generator).to(images.device)
        rows = (top + torch.arange(height, device=images.device)).view(num, 1, height, 1)
        columns = (left + torch.arange(width, device=images.device)).view(num, 1, 1, width)
        if self._config.flip:
            mirrored = (torch.rand(num, generator=generator) < 0.5).to(images.device).view(num, 1, 1, 1)
            columns = torch.where(mirrored, columns.flip(-1), columns)
        sample = torch.arange(num, device=images.device).view(num, 1, 1, 1)
        channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
        return F.pad(images, (padding,) * 4)[sample, channel, rows, columns]

    def _normalise(self, images: Tensor) -> Tensor:
        return images.float() * self._scale - self._shift

    @staticmethod
    def _resident(part: Part, device: torch.device) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            # Arrays from Ray's object store are read-only, and are only read here.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(part.images).to(device), torch.from_numpy(part.labels).to(device)


def _mix(seed: int, epoch: int) -> int:
    # Distinct for all seeds and epochs below 2^31, within what a generator takes.
    return (seed << 31) ^ epoch
