"""A training step that a GPU repeats by itself: recorded once as a CUDA graph, then replayed for batch after batch.

A step of a narrow network is some 500 kernels, and Python takes longer to start them than the GPU to run them. Replaying starts
them all at once. Owns when a step is recorded, anew if need be, and on which stream. Refuses to know what a step does; it must
not decide anything by a tensor's value, and what it leaves behind must be in tensors that were there before. Contract: the same
bits as without, since the same kernels run in the same order.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from raysp.training.batches import Pick

WARM_UP = 3
"""Steps before one is recorded, and again before it is recorded anew. They are steps like all others, and make what must be there
before: the optimizer's moments, the libraries' plans and workspaces."""


@contextmanager
def own_stream() -> Iterator[None]:
    """Let all that the block computes on the GPU run on one stream of its own: torch records from no other than that on which the
    gradients were made before, and never from the default one.
    """
    before, own = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    own.wait_stream(before)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        before.wait_stream(own)


def record(step: Callable[[], None]) -> Callable[[], None]:
    """Record what a function does on this stream, which must be `own_stream`'s, without doing it; what is returned does it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph.replay


class Replayed:
    """Steps of one training, recorded and replayed.

    Args:
        step: makes one.
        decided: what a step decides in Python, by anything but its pick's size. Asked at the beginning of an epoch.
        batch_size: images of a whole batch; a smaller one is never recorded.
        device: where picks lie.
    """

    def __init__(
        self, step: Callable[[Pick], None], decided: Callable[[], Hashable], batch_size: int, device: torch.device
    ) -> None:
        self._step, self._decided = step, decided
        self._pick = Pick(torch.zeros(4, batch_size, dtype=torch.int64, device=device), share=1.0)
        self._known: Hashable = None
        self._made = 0
        self._replay: Callable[[], None] | None = None

    def begin_epoch(self) -> None:
        """Notice what has been decided; where it has changed, what was recorded no longer holds."""
        decided = self._decided()
        if decided != self._known:
            self._known, self._made, self._replay = decided, 0, None

    def __call__(self, pick: Pick) -> None:
        """Make a step."""
        if pick.drawn.shape != self._pick.drawn.shape:
            self._step(pick)
            return
        self._pick.drawn.copy_(pick.drawn)
        if self._made < WARM_UP:
            self._made += 1
            self._step(self._pick)
            return
        if self._replay is None:
            self._replay = record(partial(self._step, self._pick))
        self._replay()
