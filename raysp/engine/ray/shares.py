"""Ray connected for a run, and what of a GPU each of its stages gets.

Owns the order: where `auto` is asked for, a Ray of our own is started after the measuring and inside MPS, which its workers must
find in their environment; on a cluster, whose nodes were started by others, the measuring is a task on one of them. The rule,
the figures and MPS are `raysp.engine.packing`'s. Contract: whatever can't be measured means a whole GPU for each stage, and one
line says why.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import ray
import torch
from rich.console import Console
from rich.markup import escape

from raysp.engine.options import RunOptions
from raysp.engine.packing import mps
from raysp.engine.packing.crowd import LIMIT_S, Trial, measure
from raysp.engine.packing.rule import Bound, Measured, bound, kept, share, told
from raysp.engine.ray import cluster, connection
from raysp.engine.ray.nodes import least_memory, on_gpu
from raysp.engine.surroundings import cpus

MEASURING = "measuring how many stages belong on one GPU; about half a minute"
NO_GPU = "GPUs: there is none now, so nothing was measured"


@contextmanager
def connect(options: RunOptions, trial: Trial, console: Console) -> Iterator[float]:
    """Connect to Ray for the length of the block; yields the GPUs, or the share of one, of each worker of a stage.

    Args:
        options: where and how to run.
        trial: what would be measured.
        console: told what becomes of `auto`.

    Raises:
        ConnectionError: see `connection.find` and `connection.connect`.
        PlacementError: see `cluster.gpus_for`.
    """
    with ExitStack() as stack:
        asked, is_auto = options.fixed_gpus, options.gpus_per_stage == "auto"
        target = connection.find(options.address)
        ours = target.address is None
        if is_auto and ours:
            asked = stack.enter_context(_packed_here(options, trial, console))
        stack.enter_context(connection.connect(target, verbose=options.verbose, tell=partial(_note, console)))
        if not ours:
            cluster.await_autoscaler(asked)
        if is_auto and not ours:
            asked = _packed_there(options, trial, console)
        yield cluster.gpus_for(asked)


@contextmanager
def _packed_here(options: RunOptions, trial: Trial, console: Console) -> Iterator[float | None]:
    """The share for stages on this machine's GPUs, None for a whole one; in the block there is MPS where several share one."""
    gpus, cores = torch.cuda.device_count(), cpus().whole
    if not gpus:
        _say(console, NO_GPU)
        yield None
        return
    limit = _limit(options, trial, gpus, cores / gpus)
    if limit.most == 1:
        _say(console, told(Measured(rates={}), limit, ""))
        yield None
        return
    with ExitStack() as for_run:
        with ExitStack() as for_measuring, console.status(MEASURING):
            packed = for_measuring.enter_context(mps.started())
            measured = measure(trial, limit.most)
            if kept(measured.rates) > 1:
                for_run.enter_context(for_measuring.pop_all())
        _say(console, told(measured, limit, packed.said))
        yield _share(measured)


def _packed_there(options: RunOptions, trial: Trial, console: Console) -> float | None:
    """The share for stages on the cluster's GPUs, None for a whole one; measured where a GPU has least memory."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")}
    if not nodes:
        _say(console, NO_GPU)
        return None
    resources = [node["Resources"] for node in nodes.values()]
    cores = min(each.get("CPU", 0.0) / each["GPU"] for each in resources)
    limit = _limit(options, trial, sum(int(each["GPU"]) for each in resources), cores)
    measured, about_mps = Measured(rates={}), ""
    if limit.most > 1:
        with console.status(MEASURING):
            node = least_memory(nodes)
            if node is None:
                measured = Measured(rates={}, failed="no node's GPU says what memory it has")
            else:
                name = nodes[node]["NodeManagerHostname"]
                try:
                    measured, about_mps = on_gpu(node, _measure, trial, limit.most, within_s=2 * LIMIT_S)
                except (ray.exceptions.RayError, TimeoutError) as error:
                    measured = Measured(rates={}, failed=f"on {name} it couldn't be measured ({str(error).splitlines()[-1]})")
    _say(console, told(measured, limit, about_mps))
    return _share(measured)


def _measure(trial: Trial, most: int) -> tuple[Measured, str]:
    """On a node: what was measured, and what there is of MPS."""
    on = "MPS was running" if mps.answers() else f"without MPS: it must be started before Ray on {socket.gethostname()}"
    return measure(trial, most), on


def _limit(options: RunOptions, trial: Trial, gpus: int, cores: float) -> Bound:
    if not trial.stages:
        return Bound(1, "no stage is known yet that could be measured")
    at_once = trial.at_once if options.max_concurrent is None else min(trial.at_once, options.max_concurrent)
    return bound(cores=cores, threads=options.threads_per_stage, gpus=gpus, at_once=at_once)


def _share(measured: Measured) -> float | None:
    number = kept(measured.rates)
    return share(number) if number > 1 else None


def _note(console: Console, line: str) -> None:
    console.print(f"[yellow]note[/] {escape(line)}", highlight=False, soft_wrap=True)


def _say(console: Console, line: str) -> None:
    console.print(escape(line), highlight=False, soft_wrap=True)
