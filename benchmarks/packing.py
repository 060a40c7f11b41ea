"""Steps of fine-tuning per second that so many stages make together on one GPU (or on so many CPU cores).

    python benchmarks/packing.py --stages 1 4 15

With NVIDIA's MPS (`nvidia-cuda-mps-control -d` first) their kernels run at the same time, else in turns. Each stage is a process
of its own with one CPU thread, as on Ray; of ResNet18 at the given width, four blocks gated, both branches computed.
"""

import multiprocessing
import time
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Annotated, Literal

import step as single
import torch
import tyro
from tyro.conf import arg

from raysp.engine.process import keep_freed_memory, use_tensor_cores

START_S = 120.0
"""Seconds that all have to get ready."""


def work(
    width: int, image_size: int, batch_size: int, device: str, seconds: float, ready: Barrier, rates: "Queue[float]"
) -> None:
    """Make steps for so long, when all are ready; tell how many per second."""
    torch.set_num_threads(1)
    keep_freed_memory()
    single.SIZE = image_size
    single.DATA = replace(single.DATA, image_size=image_size)
    where = torch.device(device)
    if device == "cuda":
        use_tensor_cores()
    step = single.OurSteps(width, single.random_images(single.NUM_IMAGES), batch_size, where, gated=4, gate=0.5)
    single.seconds(step, where, 3)
    ready.wait(START_S)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        single.seconds(step, where, 4)
        steps += 5  # with the one that warms up
    rates.put(steps / (time.perf_counter() - started))


def main(
    stages: Annotated[tuple[int, ...], arg(help="at once, one number after the other")] = (1, 4, 8),
    width: int = 16,
    image_size: int = 32,
    batch_size: int = 128,
    device: Literal["cpu", "cuda"] = "cuda",
    seconds: Annotated[float, arg(help="of steps")] = 5.0,
) -> None:
    """Print how many steps a second they make."""
    spawn = multiprocessing.get_context("spawn")
    for number in stages:
        ready, rates = spawn.Barrier(number), spawn.Queue()
        arguments = (width, image_size, batch_size, device, seconds, ready, rates)
        processes = [spawn.Process(target=work, args=arguments, daemon=True) for _ in range(number)]  # none outlives a failure
        for process in processes:
            process.start()
        each = [rates.get(timeout=START_S + 10 * seconds) for _ in processes]
        for process in processes:
            process.join()
        print(f"{number} stages, width {width}, {image_size}x{image_size}, {device}: {sum(each):.1f} steps a second", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
