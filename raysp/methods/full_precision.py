"""Sums of products in float32 as it is, where the process has let GPUs round factors to TF32 (`raysp.engine.process`)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Let no product of matrices be rounded meanwhile; also a decorator.

    A fit in closed form subtracts such sums from one another. With factors of 10 bits what is left of them may be no covariance
    at all: seen as fits that explain 1.2 times the variance, and as trainings that then diverge in their first epoch.
    """
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before
