"""What `gpu.py` measures, one part per process, so that a part that fails leaves the others whole.

    python benchmarks/gpu_parts.py PART '{"its": "settings"}'

Owns the measurements; prints a JSON object per line as it goes. Refuses to decide what is worth its time (`gpu.py`). Everything
of one group is timed in turns; images are random, since time doesn't depend on them.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import step as single
import torch
from plain_step import PlainStep, plainly
from torch import Tensor

from raysp.engine.options import Compile
from raysp.engine.process import keep_freed_memory, use_tensor_cores
from raysp.training import replay
from raysp.training.batches import Batches
from raysp.training.loop import accuracy
from raysp.training.recipes import Precision
from raysp.training.replay import WARM_UP, own_stream

VARIANTS: dict[str, tuple[Precision, Compile, bool]] = {
    "eager": ("fp32", "off", False),
    "graph": ("fp32", "off", True),
    "bf16": ("bf16", "off", False),
    "bf16-graph": ("bf16", "off", True),
    "compile-bf16": ("bf16", "on", False),
    "compile-bf16-graph": ("bf16", "on", True),
}
"""What each changes of a step: precision, compiling, recording."""

KINDS: dict[str, dict[str, Any]] = {
    "cross-entropy": {"taught": False},
    "teacher": {},
    "teacher, 4 gates": {"gated": 4, "gate": 0.5},
}
"""Steps of a baseline, and of fine-tuning without and with gated blocks of which both branches are computed."""

BUFFERS = 8
"""Maps that are used in turns: more than a cache holds."""


def say(**found: Any) -> None:
    """Print what was found."""
    print(json.dumps(found), flush=True)


def prepare(settings: dict[str, Any]) -> tuple[torch.device, AbstractContextManager[None]]:
    """The device, set up as a stage sets it up, and the stream to be on."""
    keep_freed_memory()
    torch.set_num_threads(settings.get("threads", 1))
    torch.backends.cudnn.benchmark = settings.get("cudnn_benchmark", False)
    single.SIZE = settings["image_size"]
    single.DATA = replace(single.DATA, image_size=single.SIZE)
    device = torch.device(settings["device"])
    if device.type == "cuda":
        use_tensor_cores()
        return device, own_stream()
    replay.record = lambda step: step  # a rehearsal
    return device, nullcontext()


def build(variant: str, width: int, kind: str, settings: dict[str, Any], device: torch.device) -> Callable[[], Any]:
    """A step, warmed up and recorded."""
    splits = single.random_images(settings["images"])
    size = settings["batch_size"]
    torch.manual_seed(0)
    call: Callable[[], Any]
    if variant == "plain":
        _, student, _ = single.networks(width, 0, device)
        _, teacher, _ = single.networks(width, 0, device)
        for layer in teacher.relu_layers():
            layer.relu.set_mask(torch.ones(layer.relu.shape, dtype=torch.bool, device=device))
        workers = settings["loader_workers"]
        call = PlainStep(
            plainly(student), plainly(teacher), splits, batch_size=size, lr=single.LR, loader_workers=workers, device=device
        )
    else:
        precision, how, graph = VARIANTS[variant]
        call = single.OurSteps(width, splits, size, device, **KINDS[kind], precision=precision, compile=how, graph=graph)
    for _ in range(WARM_UP + 3):
        call()
    return call


def steps(settings: dict[str, Any]) -> None:
    """Seconds of a step, for all variants of each group in turns.

    Settings: `groups`, each with a `width`, a `kind` and `variants`; `rounds`; `turn_s`, seconds of a turn.
    """
    device, stream = prepare(settings)
    with stream:
        for group in settings["groups"]:
            width, kind = group["width"], group["kind"]
            calls, repeats = {}, {}
            for variant in group["variants"]:
                say(trying=[width, kind, variant])
                started = time.perf_counter()
                calls[variant] = call = build(variant, width, kind, settings, device)
                single.seconds(call, device)
                ready_s = time.perf_counter() - started
                repeats[variant] = max(2, round(settings["turn_s"] / single.seconds(call, device, 3)))
                say(warm=[width, kind, variant], ready_s=ready_s)
            times: dict[str, list[float]] = {variant: [] for variant in calls}
            for _ in range(settings["rounds"]):
                for variant, call in calls.items():
                    times[variant].append(single.seconds(call, device, repeats[variant]))
            for variant, found in times.items():
                label = variant + (", cuDNN's search" if torch.backends.cudnn.benchmark else "")
                say(step=[width, kind, label], seconds=found, batch_size=settings["batch_size"])
            for call in calls.values():
                if isinstance(call, single.OurSteps):
                    call.end()
            del calls, call
            if device.type == "cuda":
                torch.cuda.empty_cache()


def packed(settings: dict[str, Any]) -> None:
    """Steps that this process makes in `seconds`, once it is told on its input that all are ready."""
    device, stream = prepare(settings)
    with stream:
        call = build(settings["variant"], settings["width"], settings["kind"], settings, device)
        single.seconds(call, device, 3)
        memory = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
        say(ready=True, memory_mib=memory // 2**20)
        sys.stdin.readline()
        made, started = 0, time.perf_counter()
        while time.perf_counter() - started < settings["seconds"]:
            single.seconds(call, device, 9)
            made += 10  # with the one that warms up
        say(rate=made / (time.perf_counter() - started))


def kernels(settings: dict[str, Any]) -> None:
    """What a step's time on the device goes into, by kernel: the mean of five."""
    device, stream = prepare(settings)
    on_gpu = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    with stream:
        for group in settings["groups"]:
            call = build(group["variant"], group["width"], group["kind"], settings, device)
            single.seconds(call, device, 3)
            with torch.profiler.profile(activities=[activity]) as profile:
                for _ in range(5):
                    call()
                if on_gpu:
                    torch.cuda.synchronize()
            found = []
            for event in profile.key_averages():
                spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
                if spent:
                    found.append({"ms": spent / 5e3, "calls": event.count / 5, "name": event.key})
            found.sort(key=lambda kernel: -float(kernel["ms"]))
            say(kernels=[group["width"], group["kind"], group["variant"]], of=found[:60], ms=sum(k["ms"] for k in found))


def relus(settings: dict[str, Any]) -> None:
    """Microseconds of ways to compute a masked ReLU forward and backward on maps of both widths, in bf16 and fp32."""
    device, stream = prepare(settings)
    with stream:
        for channels in settings["channels"]:
            for dtype in (torch.bfloat16, torch.float32):
                _relus(channels, dtype, settings, device)


def _relus(channels: int, dtype: torch.dtype, settings: dict[str, Any], device: torch.device) -> None:
    size, number = settings["image_size"], settings["batch_size"]
    shape = (number, size, size, channels)
    maps = [torch.randn(shape, device=device, dtype=dtype) for _ in range(BUFFERS)]
    gradients = [torch.randn(shape, device=device, dtype=dtype) for _ in range(BUFFERS)]
    floor = torch.zeros(shape[1:], device=device).masked_fill_(torch.rand(shape[1:], device=device) < 0.5, -torch.inf).to(dtype)

    def ours_back(y: Tensor, gradient: Tensor) -> Tensor:
        above = y - floor
        return torch.ops.aten.threshold_backward.grad_input(gradient, above, 0, grad_input=above)

    ways: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "relu forward": lambda x, g: torch.relu_(x),
        "ours forward": lambda x, g: torch.maximum(x, floor, out=x),
        "relu backward": lambda y, g: torch.ops.aten.threshold_backward(g, y, 0),
        "ours backward": ours_back,
        "where backward": lambda y, g: torch.where(y > floor, g, 0),
    }
    if device.type == "cuda":
        code = "template <typename T> T pass(T g, T y, T floor) { return y > floor ? g : T(0); }"
        passed = torch.cuda.jiterator._create_jit_fn(code)
        ways["jiterator backward"] = lambda y, g: passed(g, y, floor)
        try:
            import gpu_triton
        except ImportError as error:
            say(failed="triton", error=str(error))
        else:
            ways["triton forward"] = lambda x, g: gpu_triton.forward(x, floor)
            ways["triton backward"] = lambda y, g: gpu_triton.backward(y, g, floor)
    start = maps[0].clone()  # the ways that are timed first overwrite the maps
    y = torch.maximum(start, floor)
    expected = ours_back(y, gradients[0])
    found = {}
    for name, way in ways.items():
        try:
            if name.endswith("backward") and not name.startswith("relu"):
                assert torch.equal(way(y, gradients[0]), expected), "another gradient"
            if name == "triton forward":
                x = start.clone()
                way(x, x)
                assert torch.equal(x, y), "another value"
            found[name] = _microseconds(way, list(zip(maps, gradients, strict=True)), settings["rounds"], device)
        except Exception as error:
            say(failed=name, error=f"{type(error).__name__}: {error}"[:500])
    say(relus=[channels, str(dtype)], microseconds=found, bytes=maps[0].numel() * maps[0].element_size())


def _microseconds(
    way: Callable[[Tensor, Tensor], Any], pairs: Iterable[tuple[Tensor, Tensor]], rounds: int, device: torch.device
) -> float:
    """Of one call, the median of some rounds; recorded, so that nothing waits for Python."""

    def all_of_them() -> None:
        for x, gradient in pairs:
            way(x, gradient)

    all_of_them()
    replayed = replay.record(all_of_them)
    return 1e6 / BUFFERS * statistics.median(single.seconds(replayed, device, 10) for _ in range(rounds))


def evaluation(settings: dict[str, Any]) -> None:
    """Seconds to measure the accuracy on 10,000 images."""
    device, stream = prepare(settings)
    with stream:
        batches = Batches(single.DATA, single.random_images(settings["eval_images"]), device)
        for width in settings["widths"]:
            _, network, _ = single.networks(width, 0, device)
            call = partial(accuracy, network, batches, "test")
            found = [single.seconds(call, device, 1) for _ in range(3)]
            say(evaluation=width, images=settings["eval_images"], seconds=found)


PARTS = {part.__name__: part for part in (steps, packed, kernels, relus, evaluation)}

if __name__ == "__main__":
    PARTS[sys.argv[1]](json.loads(sys.argv[2]))
