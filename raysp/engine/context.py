"""Where a stage runs: everything that must not change its result's identity.

Owns `Place` (what a run gives to all its jobs) and `Context` (what one job hands to its stage's function). Refuses anything that
belongs into a key. Contract: a stage's function reads its inputs from the context's parents and data and writes through its save
methods alone; all runners, in this process and on Ray, build the same context. Of several workers only the first writes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from raysp.engine.options import Compile, CudaGraph, uses_graph
from raysp.engine.workers import ALONE, Workers
from raysp.models.network import Network
from raysp.planning.weighing import Weighing
from raysp.store.figures import Rows, rows_after
from raysp.store.keys import Config, key_of
from raysp.store.records import WEIGHTS, Store
from raysp.store.stage import Stage
from raysp.store.tensor_files import load_tensors

if TYPE_CHECKING:
    from raysp.data.sources import Splits


class Paused(Exception):
    """A stage has reached the epoch up to which it was to train. It is not done; what it was worth then is in `rows`.

    Args:
        epoch: from 1.
        rows: see `raysp.store.figures.Rows`.
        time_s: seconds of all epochs so far.
    """

    def __init__(self, epoch: int, rows: Rows, time_s: float) -> None:
        super().__init__(f"paused after epoch {epoch}")
        self.epoch, self.rows, self.time_s = epoch, rows, time_s


Report = Callable[[dict[str, Any]], None]
"""Takes one epoch's figures: `epoch` (from 1), `epochs`, `time_s` and whatever the stage measured."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What all jobs of one run share."""

    store: Store
    """The results root, seen as the owner of its lock."""
    num_threads: int = 1
    """CPU threads per stage, fixed for the run: the order of float sums depends on it."""
    gpus: float = 0.0
    """Of each of a stage's workers: a share when several stages are packed on one; 0 to run on the CPU."""
    sync_batchnorm: bool = True
    """Where a stage has several workers on GPUs, take batch norm's statistics over the whole batch, not each worker's part."""
    compile: Compile = "off"
    """How networks are compiled while they train. Like the number of threads it changes the rounding of sums alone."""
    cuda_graph: CudaGraph = "auto"
    """Whether a GPU repeats a recorded step; changes no result."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """What the record keeps besides identity: preset, git commit."""
    weighing: Weighing = field(default_factory=Weighing)
    """What a stage that pauses is weighed by, and what predicts seconds."""
    splits: Mapping[str, "Splits"] = field(default_factory=dict)
    """Decoded data, by the data configuration's key."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A finished ancestor, as its child reads it."""

    record: Mapping[str, Any]
    tensors: Callable[[], dict[str, torch.Tensor]]
    """Loads the ancestor's weights onto the CPU. Raises DamagedFile."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What one job gives to its stage's function."""

    stage: Stage
    place: Place
    parents: Mapping[str, Parent]
    report: Report
    workers: Workers = ALONE
    """The stage's training processes, as this one sees them."""
    until: int | None = None
    """The epoch after which the stage is to pause; None trains it to its end."""
    saved: dict[str, Any] = field(default_factory=dict)
    """What was saved through this context, for the record's `files`."""

    @property
    def sync_batchnorm(self) -> bool:
        """Whether batch norms share their statistics over the workers while training."""
        return self.place.sync_batchnorm and bool(self.place.gpus) and self.workers.size > 1

    @property
    def compile(self) -> Compile:
        """How networks are compiled while they train."""
        return self.place.compile

    @property
    def uses_graph(self) -> bool:
        """Whether training steps are recorded and replayed."""
        return uses_graph(self.place.cuda_graph, self.place.gpus, self.workers.size)

    @property
    def device(self) -> torch.device:
        """The device that the stage computes on."""
        return torch.device("cuda" if self.place.gpus else "cpu")

    def splits(self, data: Config) -> "Splits":
        """The decoded data set of a data configuration."""
        return self.place.splits[key_of(data)]

    def load_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last checkpoint of this stage, or None; the same on all workers, each of which must call this."""
        return self.workers.from_first(lambda: self.place.store.load_checkpoint(self.stage))

    def save_checkpoint(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace this stage's checkpoint."""
        if self.workers.rank == 0:
            self.place.store.save_checkpoint(self.stage, tensors, state)

    def pauses_after(self, epoch: int) -> bool:
        """Whether the stage, with so many epochs trained, has trained as far as it was to, and has epochs left."""
        return self.until is not None and self.until <= epoch < self.stage.epochs

    def pause_if_due(self, history: Sequence[Mapping[str, Any]], deployed: Callable[[], Network]) -> None:
        """Raise Paused if `pauses_after` these epochs. A checkpoint must be there.

        Args:
            history: figures of the epochs that were trained.
            deployed: gives the network as it would be deployed.
        """
        if self.pauses_after(len(history)):
            assert self.until is not None
            time_s = sum(figures["time_s"] for figures in history)
            costs = self.place.weighing.of_network(deployed())
            raise Paused(self.until, rows_after(self.until, history, costs), time_s)

    def save_weights(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
        """Write this stage's weights, whatever they are."""
        if self.workers.rank == 0:
            self.saved[WEIGHTS] = self.place.store.save_weights(self.stage, tensors, metadata)


def read_parents(stage: Stage, store: Store) -> dict[str, Parent]:
    """Collect a stage's parents from the store, by role. Raises what `read_parent` raises."""
    return {role: read_parent(parent, store) for role, parent in stage.parents.items()}


def read_parent(parent: Stage, store: Store) -> Parent:
    """A finished stage, as its children read it.

    Raises:
        RuntimeError: it isn't done.
        DamagedFile: its record or weights can't be trusted.
    """
    record = store.read(parent)
    if record is None:
        raise RuntimeError(f"{parent.label} is needed, which has no record in {store.root}")
    path = store.directory(parent) / WEIGHTS
    return Parent(record=record, tensors=partial(load_tensors, path, record["files"].get(WEIGHTS)))
