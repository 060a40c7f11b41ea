"""Trainings whose every checkpoint is kept, and a recording of steps that needs no GPU."""

import dataclasses
import json
from unittest import mock

import parallel
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raysp.engine import termination
from raysp.engine.termination import Terminated
from raysp.engine.workers import ALONE
from raysp.training import loop
from raysp.training.batches import Batches
from raysp.training.loop import train

CASES = (*parallel.CASES, "random", "slowly gated")


class Context:
    """Where a training runs that keeps its checkpoints in memory."""

    workers = ALONE
    sync_batchnorm = False
    compile = "off"

    def __init__(self, device, *, uses_graph):
        self.device, self.uses_graph = torch.device(device), uses_graph
        self.checkpoints = []

    def load_checkpoint(self):
        return self.checkpoints[-1] if self.checkpoints else None

    def save_checkpoint(self, tensors, state):
        kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self.checkpoints.append((kept, json.loads(json.dumps(state))))

    def report(self, figures):
        pass

    def pauses_after(self, epoch):
        return False

    def pause_if_due(self, history, deployed):
        pass


class _Stopping(Batches):
    """Tells the training to end after certain steps, counted from 1 over all epochs."""

    stops: frozenset = frozenset()
    made = 0

    def picks(self, *args):
        for pick in super().picks(*args):
            self.made += 1
            if self.made in self.stops:
                termination._running.given = True
            yield pick


def checkpoints(make, splits, data, device="cpu", *, uses_graph, stops=()):
    """All checkpoints of a training that is stopped after these steps, and goes on each time in what is like a new process.

    Args:
        make: gives a task, whose networks are on the device, and its recipe.
        splits, data: the images.
        device: where it trains.
        uses_graph: whether steps are recorded.
        stops: steps, from 1.
    """
    batches = _Stopping(data, splits, torch.device(device))
    batches.stops = frozenset(stops)
    context = Context(device, uses_graph=uses_graph)
    while True:
        task, recipe = make()
        try:
            with mock.patch.object(loop, "CHECKPOINT_PAUSE", 0.0):  # one after every epoch
                train(task, recipe, 5, batches, context)
        except Terminated:
            continue
        return context.checkpoints


def of_case(case, precision="fp32", device="cpu", **options):
    """All checkpoints of one of `CASES`."""

    def make():
        with torch.device(device):
            task, recipe = parallel.make(case)
        return task, dataclasses.replace(recipe, precision=precision)

    return checkpoints(make, parallel.splits(), parallel.DATA, device, **options)


def difference(some, others):
    """What of two trainings' checkpoints is not the same bit for bit, in words; empty if nothing."""
    if len(some) != len(others):
        return f"{len(some)} and {len(others)} checkpoints"
    for number, ((tensors, state), (other, other_state)) in enumerate(zip(some, others, strict=True), start=1):
        if tensors.keys() != other.keys():
            return f"checkpoint {number}: {tensors.keys() ^ other.keys()}"
        unlike = [name for name, tensor in tensors.items() if not torch.equal(tensor, other[name])]
        if unlike or _timeless(state) != _timeless(other_state):
            return f"checkpoint {number} of {len(some)}: {unlike or [_timeless(state), _timeless(other_state)]}"
    return ""


def _timeless(state):
    if isinstance(state, dict):
        return {name: _timeless(value) for name, value in state.items() if name != "time_s"}
    return [_timeless(value) for value in state] if isinstance(state, list) else state


class _Tape(TorchDispatchMode):
    """Notes every operation with the very tensors that it reads and writes, as a CUDA graph notes kernels and addresses."""

    READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift_fresh", "_unique2", "equal")
    """Operations that wait for a tensor's value, or make a tensor from numbers of Python's."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        assert name not in self.READS, f"a recorded step calls {operation}"
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result

    def play(self):
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for operation, args, kwargs, result in self.operations:
                again = operation(*args, **kwargs)
                read = {_place(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and _place(old) not in read:  # else a view, or what was written in place
                        old.copy_(new)


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


def imitate(recordings):
    """Stands in for `raysp.training.replay.record` where there is no GPU.

    What Python decides, numbers that it hands over, and tensors that it puts in the place of others are then as they were when
    the step was recorded. Unlike the GPU's, the recording makes the step; its first replay makes none.

    Args:
        recordings: grows by the number of operations of each recording.
    """

    def record(step):
        tape = _Tape()
        with tape:
            step()
        recordings.append(len(tape.operations))
        fresh = True

        def replay():
            nonlocal fresh
            if not fresh:
                tape.play()
            fresh = False

        return replay

    return record
