"""Which training images are held out for validation.

Owns the draw. Contract: it depends on the labels and the share alone, so that all seeds of a sweep leave the same images out.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raysp.data.listing import Entry

SPLIT_SEED = 0
"""Draws the validation part."""

Rows = npt.NDArray[np.int64]


def held_out(labels: Rows, fraction: float, *, every_class_kept: bool = False) -> tuple[Rows, Rows]:
    """Hold out a share at random, spread over the classes in proportion.

    Args:
        labels: of all training images.
        fraction: the share, in (0, 1).
        every_class_kept: leave every class one image to learn from; other classes give one more in its place, as far as they
            can. Where none can, the draw stays as it was.

    Returns:
        Numbers of the images that are trained on, and of those held out, both rising.
    """
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    num_held = round(fraction * len(labels))
    held = by_class[((np.arange(num_held) + 0.5) * len(labels) / max(num_held, 1)).astype(np.int64)]
    if every_class_kept and len(given_back := _give_back(labels, by_class, held)):
        held = given_back  # else no class has an image to spare
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return kept, np.sort(held)


def takes_a_class(labels: Rows, fraction: float) -> bool:
    """Whether holding out at random would leave a class without an image to learn from."""
    kept, _ = held_out(labels, fraction)
    return len(np.unique(labels[kept])) < len(np.unique(labels))


def labels_of(entries: Sequence[Entry]) -> Rows:
    """(n,), the classes' numbers."""
    return np.asarray([entry.label for entry in entries], dtype=np.int64)


def _give_back(labels: Rows, by_class: Rows, held: Rows) -> Rows:
    taken = {int(row) for row in held}
    left = np.bincount(np.delete(labels, held), minlength=int(labels.max()) + 1)
    for row in sorted(taken):
        if left[labels[row]]:
            continue
        taken.remove(row)
        left[labels[row]] += 1
        largest = int(left.argmax())
        if left[largest] > 1:
            drawn = by_class[slice(*np.searchsorted(labels[by_class], (largest, largest + 1)))]
            taken.add(next(int(other) for other in drawn if int(other) not in taken))
            left[largest] -= 1
    return np.asarray(sorted(taken), dtype=np.int64)
