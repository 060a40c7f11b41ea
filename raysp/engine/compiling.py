"""Networks compiled by `torch.compile` while they train.

Owns when that is possible, and what of a training is compiled: the networks' forward and backward, not the losses, whose weights
change from epoch to epoch. Contract: changes nothing but the rounding of sums; a network is its own again after the block, and
what is called as `network.forward` inside it isn't compiled.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from raysp.engine.options import Compile

RECOMPILES = 64
"""More than a training has need of: train and last batch, by the three states of a gate, by masks that have filled or emptied."""


def check_compiler(compile: Compile, device: torch.device) -> None:  # noqa: A002
    """Compile something small, so that what this machine lacks is known before a training starts.

    Raises:
        ValueError: it can't be compiled, most often because there is no C++ compiler.
    """
    if compile == "off":
        return
    try:
        torch.compile(_double)(torch.ones(8, device=device))
    except Exception as error:
        cause = f"{str(error).strip().splitlines()[0]:.200}"
        raise ValueError(
            f"compile is {compile}, but torch can't compile on this machine ({cause}); expected a C++ compiler such as g++ on "
            "the path, or compile off"
        ) from error


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2.0


@contextmanager
def compiled(networks: Sequence[nn.Module], compile: Compile, device: torch.device) -> Iterator[None]:  # noqa: A002
    """Let networks be compiled for the length of the block, when they are first called.

    Args:
        networks: on `device`.
        compile: how; `off` changes nothing.
        device: where they compute.

    Raises:
        ValueError: this machine can't compile.
    """
    if compile == "off":
        yield
        return
    check_compiler(compile, device)
    torch.compiler.reset()  # another stage's networks in this process count against the limit
    with torch._dynamo.config.patch(recompile_limit=RECOMPILES):
        for network in networks:
            # A size that comes once per epoch is worth code of its own, and not that all others share code for any size.
            network.compile(dynamic=False)
        try:
            yield
        finally:
            for network in networks:
                network._compiled_call_impl = None
