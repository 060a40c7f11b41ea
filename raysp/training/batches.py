"""From images in memory to normalised, augmented batches on a device.

Owns the order of images and their random crops and flips. Contract: both follow from (seed, epoch) alone, so that a resumed run
sees what an undisturbed one sees, and several workers see together what one sees alone; images stay uint8 until they are in a
batch.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Splits
from raysp.engine.workers import ALONE, Workers

EVAL_BATCH = 512


@dataclass(frozen=True)
class Pick:
    """What a training step sees of the images, all of it on their device."""

    drawn: Tensor
    """(4, n) int64: each image's place in the training part, its crop's first row and column, and 1 where it is mirrored."""
    share: float
    """Of the whole batch, in [0, 1]; see `Workers.shard`."""
    first: int = 0
    """Place in the whole batch of the first image, from 0."""


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

    def num_images(self, part: str) -> int:
        """Images in the part "train", "val" or "test"."""
        return len(self._parts[part][1])

    def train(
        self, batch_size: int, seed: int, epoch: int, workers: Workers = ALONE, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """One epoch in random order: images (n, c, h, w) float, labels (n,), and their share of the whole batch; see `picks`."""
        for pick in self.picks(batch_size, seed, epoch, workers, first):
            yield *self.take(pick), pick.share

    def picks(self, batch_size: int, seed: int, epoch: int, workers: Workers = ALONE, first: int = 0) -> Iterator[Pick]:
        """What each step of one epoch is to see, in random order.

        Args:
            batch_size: images per step over all workers, at least 2.
            seed, epoch: what order, crops and flips follow from.
            workers: whose part of each batch is given out.
            first: step, from 0, to begin with; those before it were made already.
        """
        labels = self._parts["train"][1]
        generator = torch.Generator().manual_seed(_mix(seed, epoch))
        order = torch.randperm(len(labels), generator=generator)
        batches = torch.split(order, batch_size)[: self.num_batches(batch_size)]
        # Drawn for the whole epoch, and taken to the device at once: every worker draws the same numbers, whichever are its own
        # and wherever it begins, and no step waits for the device.
        draws = [self._draw(len(batch), generator) for batch in batches]
        top_left = torch.cat([corner for corner, _ in draws], dim=1)
        mirrored = torch.cat([flips for _, flips in draws])
        drawn = torch.cat([order[None, : len(mirrored)], top_left, mirrored[None]]).to(labels.device)
        for step in range(first, len(batches)):
            start = step * batch_size
            mine, share = workers.shard(len(batches[step]))
            yield Pick(drawn[:, start + mine.start : start + mine.stop], share, mine.start)

    def take(self, pick: Pick) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) float, cropped and mirrored, and their labels (n,). All of it is computed on the device."""
        images, labels = self._parts["train"]
        where = pick.drawn[0]
        return self._normalise(self._vary(images[where], pick.drawn[1:3], pick.drawn[3].bool())), labels[where]

    def in_order(self, part: str, batch_size: int = EVAL_BATCH, workers: Workers = ALONE) -> Iterator[tuple[Tensor, Tensor]]:
        """The part "train", "val" or "test" as it is.

        Args:
            part: which.
            batch_size: images at a time.
            workers: whose piece of the part is given out; see `Workers.shard`.

        Yields:
            Images (n, c, h, w) float, labels (n,).
        """
        images, labels = self._parts[part]
        mine, _ = workers.shard(len(labels))
        images, labels = images[mine], labels[mine]
        for start in range(0, len(labels), batch_size):
            yield self._normalise(images[start : start + batch_size]), labels[start : start + batch_size]

    def sample(self, num: int, seed: int, batch_size: int = EVAL_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images as they are, neither cropped nor mirrored.

        Args:
            num: how many; drawn without replacement, all where there are no more.
            seed: of the draw.
            batch_size: images at a time.

        Yields:
            Images (n, c, h, w) float, labels (n,).
        """
        images, labels = self._parts["train"]
        drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:num].to(labels.device)
        for which in torch.split(drawn, batch_size):
            yield self._normalise(images[which]), labels[which]

    def _draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the crops of a batch begin, (2, num), and which images are mirrored, bool (num,)."""
        top_left = torch.randint(0, 2 * self._config.crop_padding + 1, (2, num), generator=generator)
        flips = torch.rand(num, generator=generator) < 0.5 if self._config.flip else torch.zeros(num, dtype=torch.bool)
        return top_left, flips

    def _vary(self, images: Tensor, top_left: Tensor, mirrored: Tensor) -> Tensor:
        num, _, height, width = images.shape
        top, left = top_left.unsqueeze(-1)
        rows = (top + torch.arange(height, device=images.device)).view(num, height, 1)
        columns = (left + torch.arange(width, device=images.device)).view(num, 1, width)
        columns = torch.where(mirrored.view(num, 1, 1), columns.flip(-1), columns)
        sample = torch.arange(num, device=images.device).view(num, 1, 1)
        padded = F.pad(images, (self._config.crop_padding,) * 4).permute(0, 2, 3, 1)
        return padded[sample, rows, columns].permute(0, 3, 1, 2)

    def _normalise(self, images: Tensor) -> Tensor:
        # Channels last is the layout that convolutions on CPUs and tensor cores compute in; everything behind follows it.
        return images.float().contiguous(memory_format=torch.channels_last) * self._scale - self._shift

    @staticmethod
    def _resident(part: Part, device: torch.device) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            # Arrays from Ray's object store are read-only, and are only read here.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(part.images).to(device), torch.from_numpy(part.labels).to(device)


def _mix(seed: int, epoch: int) -> int:
    # Distinct for all seeds and epochs below 2^31, within what a generator takes.
    return (seed << 31) ^ epoch
