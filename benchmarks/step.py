"""A step of fine-tuning against its bare convolutions, and against the plain way to write it (`plain_step.py`).

    python benchmarks/step.py --width 16 64 --variants bf16 compile

Everything is timed in turns, round by round, so that whatever else the machine does falls on all alike; medians over the rounds
and their spread are printed, and only the ratios mean anything. Images are random: time doesn't depend on them.
"""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from plain_step import BETA, KL_WEIGHT, RHO, PlainStep, plainly
from torch import Tensor, nn
from tyro.conf import arg

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Splits
from raysp.engine.compiling import compiled
from raysp.engine.options import Compile
from raysp.engine.process import keep_freed_memory, use_tensor_cores
from raysp.engine.workers import ALONE
from raysp.models.network import Network
from raysp.stages.baseline import CrossEntropyTask
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, FinetuneTask
from raysp.stages.student import grow_shallow_branches
from raysp.training.batches import Batches, Pick
from raysp.training.recipes import Precision, Recipe
from raysp.training.replay import Replayed
from raysp.training.step import Step
from raysp.training.task import Task

CLASSES, SIZE, LR = 100, 32, 0.01
DATA = DataConfig(name="cifar100", num_classes=CLASSES, image_size=SIZE)
NUM_IMAGES = 2048
SHARE_KEPT = 0.1
"""Of every layer's ReLUs."""

Variant = Literal["bf16", "compile", "compile-bf16"]
OPTIONS: dict[Variant, tuple[Precision, Compile]] = {
    "bf16": ("bf16", "off"),
    "compile": ("fp32", "on"),
    "compile-bf16": ("bf16", "on"),
}
"""What each variant of our step changes of it."""


def random_images(number: int) -> Splits:
    """Images and labels that mean nothing."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 3, SIZE, SIZE), dtype=np.uint8)
    part = Part(images=images, labels=random.integers(0, CLASSES, number))
    return Splits(train=part, val=part, test=part, mean=[128.0] * 3, std=[64.0] * 3)


def networks(width: int, gated: int, device: torch.device) -> tuple[FinetuneConfig, Network, Network]:
    """A configuration, its student with masks and so many gated blocks, and its teacher."""
    experiment = Experiment(data=DATA, model="resnet18", width=width)
    config = FinetuneConfig(experiment=experiment, recipe=Recipe(lr=LR), beta=BETA, kl_weight=KL_WEIGHT, rho=RHO)
    student = config.experiment.build("student")
    blocks = [block.inner_relu for _, block in student.gated_blocks()]
    for layer in student.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < SHARE_KEPT)
    for relu in blocks[:gated]:
        assert relu is not None
        relu.set_mask(torch.zeros(relu.shape, dtype=torch.bool))
    assert len(grow_shallow_branches(student, 0.0, 3)) == gated
    teacher = config.experiment.build("baseline")
    return config, student.to(device), config.experiment.teacher(teacher.state_dict(), device)


class OurSteps:
    """Steps as a stage makes them, batches included.

    Args:
        width: channels of the first stage.
        splits: images in memory.
        batch_size: images per step.
        device: where it trains.
        taught: fine-tuning with masks and a teacher, or plain cross-entropy with all ReLUs.
        gated: blocks with both branches.
        gate: their γ.
        precision, compile: as a stage's.
        graph: whether steps are recorded; the caller is in `own_stream`.
    """

    def __init__(
        self,
        width: int,
        splits: Splits,
        batch_size: int,
        device: torch.device,
        *,
        taught: bool = True,
        gated: int = 0,
        gate: float = 0.0,
        precision: Precision = "fp32",
        compile: Compile = "off",  # noqa: A002 (the flag's word)
        graph: bool = False,
    ) -> None:
        config, student, teacher = networks(width, gated, device)
        task: Task
        if taught:
            task = FinetuneTask(student, teacher, config, any_gated=gated > 0)
        else:
            task = CrossEntropyTask(config.experiment.build("baseline").to(device))
        task.model.train().set_gates(gate)
        self._compiled = ExitStack()
        self._compiled.enter_context(compiled(task.networks(), compile, device))
        self._step = Step(task, replace(config.recipe, precision=precision), ALONE)
        self._batches, self._batch_size = Batches(DATA, splits, device), batch_size
        self._loss_sum = torch.zeros((), device=device)
        self._make: Callable[[Pick], None] = self._one
        if graph:
            self._make = Replayed(self._one, task.decided, batch_size, device)
            self._make.begin_epoch()
        self._picks = self._forever()

    def _forever(self) -> Iterator[Pick]:
        for epoch in itertools.count():
            yield from (p for p in self._batches.picks(self._batch_size, 0, epoch) if p.drawn.shape[1] == self._batch_size)

    def _one(self, pick: Pick) -> None:
        images, labels = self._batches.take(pick)
        self._loss_sum.add_(pick.share * self._step(images, labels, pick.share))

    def __call__(self) -> None:
        """Make one."""
        self._make(next(self._picks))

    def end(self) -> None:
        """Give the networks back as they were."""
        self._compiled.close()


def bare_convolutions(width: int, batch_size: int, device: torch.device) -> list[list[Callable[[], Any]]]:
    """For every convolution of a step (the teacher's forward, the student's forward and backward), its ways in both layouts."""
    _, student, _ = networks(width, 0, device)
    shapes: list[tuple[nn.Conv2d, torch.Size]] = []

    def note(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        shapes.append((conv, inputs[0].shape))

    hooks = [module.register_forward_hook(note) for module in student.modules() if isinstance(module, nn.Conv2d)]
    student(torch.zeros(batch_size, 3, SIZE, SIZE, device=device))
    for hook in hooks:
        hook.remove()
    found: list[list[Callable[[], Any]]] = []
    for number, (conv, shape) in enumerate(shapes):
        forward: list[Callable[[], Any]] = []
        backward: list[Callable[[], Any]] = []
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, device=device).contiguous(memory_format=layout)
            w = conv.weight.detach().contiguous(memory_format=layout)
            g = torch.randn_like(torch.conv2d(x, w, None, conv.stride, conv.padding))
            forward.append(partial(torch.conv2d, x, w, None, conv.stride, conv.padding))
            wanted = [number > 0, True, False]  # nobody needs the images' gradient
            rest = (None, conv.stride, conv.padding, [1, 1], False, [0, 0], 1, wanted)
            backward.append(partial(torch.ops.aten.convolution_backward, g, x, w, *rest))
        found += [forward, forward, backward]
    return found


class PlainProcess:
    """The plain way in a process of its own, whose memory is managed as usual (`keep_freed_memory` is part of ours)."""

    def __init__(self, width: int, batch_size: int, loader_workers: int, threads: int, device: torch.device) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, width, batch_size, loader_workers, threads, device)
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
        self._process.start()
        self._pipe.recv()

    def seconds(self, steps: int) -> float:
        """Mean seconds of a step."""
        self._pipe.send(steps)
        return float(self._pipe.recv())

    def end(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self._process.join()


def _serve(pipe: Connection, width: int, batch_size: int, loader_workers: int, threads: int, device: torch.device) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    _, student, _ = networks(width, 0, device)
    _, teacher, _ = networks(width, 0, device)
    for layer in teacher.relu_layers():
        layer.relu.set_mask(torch.ones(layer.relu.shape, dtype=torch.bool, device=device))
    images = random_images(NUM_IMAGES)
    step = PlainStep(
        plainly(student), plainly(teacher), images, batch_size=batch_size, lr=LR, loader_workers=loader_workers, device=device
    )
    pipe.send("ready")
    while steps := pipe.recv():
        pipe.send(seconds(step, device, steps))


def seconds(call: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Mean seconds of a call, after one that warms caches up."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def main(
    width: Annotated[tuple[int, ...], arg(help="channels of ResNet18's first stage")] = (16, 64),
    rounds: Annotated[int, arg(help="turns")] = 7,
    steps: Annotated[int, arg(help="of each kind per turn")] = 3,
    batch_size: int = 128,
    threads: Annotated[int, arg(help="on the CPU")] = 2,
    loader_workers: Annotated[tuple[int, ...], arg(help="of the plain way; the faster counts")] = (0, 2),
    device: Literal["cpu", "cuda"] = "cpu",
    variants: Annotated[tuple[Variant, ...], arg(help="of our step, measured beside it")] = (),
) -> None:
    """Print the ratios."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    where = torch.device(device)
    if device == "cuda":
        use_tensor_cores()
    splits = random_images(NUM_IMAGES)
    for channels in width:
        torch.manual_seed(0)
        plain = {
            f"plain, {workers} loaders": PlainProcess(channels, batch_size, workers, threads, where) for workers in loader_workers
        }
        ours = OurSteps(channels, splits, batch_size, where)
        before, after = (OurSteps(channels, splits, batch_size, where, gated=4, gate=gate) for gate in (0.5, 1.0))
        convolutions = bare_convolutions(channels, batch_size, where)
        others: dict[str, OurSteps] = {}
        for variant in variants:
            precision, how = OPTIONS[variant]
            others[variant] = OurSteps(channels, splits, batch_size, where, precision=precision, compile=how)
        calls: dict[str, Callable[[], Any]] = {"ours": ours, "gates open": before, "gates at 1": after, **others}
        times: dict[str, list[float]] = {name: [] for name in (*calls, *plain, "convolutions")}
        for number in range(rounds + 1):
            bare = sum(min(seconds(way, where, 2) for way in ways) for ways in convolutions)
            turn = {name: seconds(call, where, steps) for name, call in calls.items()} | {"convolutions": bare}
            turn |= {name: process.seconds(steps) for name, process in plain.items()}
            if number:  # the first one warms up
                for name, value in turn.items():
                    times[name].append(value)
        for process in plain.values():
            process.end()
        for steps_of in (ours, before, after, *others.values()):
            steps_of.end()
        best_plain = min(plain, key=lambda name: statistics.median(times[name]))
        print(f"ResNet18, width {channels}, batch {batch_size}, {device}, {threads} threads, {rounds} rounds of {steps} steps")
        for name, values in times.items():
            print(f"  {name:18} {1e3 * statistics.median(values):9.1f} ms")
        for title, above, below in (
            ("step / its bare convolutions", "ours", "convolutions"),
            ("images per second, ours / plain", best_plain, "ours"),
            ("four gated blocks, before / after their gates are at 1", "gates open", "gates at 1"),
            *((f"{variant} step / the bare convolutions in fp32", variant, "convolutions") for variant in variants),
            *((f"images per second, {variant} / ours", "ours", variant) for variant in variants),
        ):
            ratios = [a / b for a, b in zip(times[above], times[below], strict=True)]
            print(f"  {title}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
