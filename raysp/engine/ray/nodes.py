"""What a driver asks of its cluster's machines themselves, whatever runs on them.

Owns calling a function on given nodes. Contract: takes none of their CPUs, and of their GPUs no more than is said; leaves out a
node that has gone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysp.engine import termination
from raysp.store.records import NoLongerOwner, Store

SEEN_WITHIN_S = 60.0
"""Seconds that a node has to say whether it sees the results root, or what memory its GPU has."""
A_LOOK = 0.01
"""Of a GPU, for looking at it: without any, Ray hides it."""


def check_seen_everywhere(store: Store) -> None:
    """Raise ValueError if the results root is a directory that a node of the cluster doesn't see."""
    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not isinstance(store.root, Path) or not others:
        return
    looks = _call(_look, dict.fromkeys(others, (store,)))
    for answer in ray.wait(looks, num_returns=len(looks), timeout=SEEN_WITHIN_S)[0]:
        try:
            ray.get(answer)
        except NoLongerOwner as error:
            raise ValueError(str(error)) from None
        except ray.exceptions.RayError:
            continue  # the node has gone, or is slow; its stages will say so


def end_processes(processes: Iterable[tuple[str, int]]) -> None:
    """Tell processes to save and end, and wait until they have, for as long as they may take.

    Args:
        processes: the node and the process number of each.
    """
    here = ray.get_runtime_context().get_node_id()
    by_node: dict[str, list[int]] = {}
    for node, pid in processes:
        by_node.setdefault(node, []).append(pid)
    mine = by_node.pop(here, [])
    ends = _call(_end, by_node)
    _end(*mine)
    if ends:
        ray.wait(ends, num_returns=len(ends), timeout=termination.GRACE_S)


def least_memory(nodes: Iterable[str]) -> str | None:
    """Of nodes with GPUs the one on which a GPU has least memory free; None where none says."""
    asked = dict(zip(_call(_free_memory, dict.fromkeys(nodes, ()), gpus=A_LOOK), nodes, strict=True))
    free: dict[str, int] = {}
    for answer in ray.wait(list(asked), num_returns=len(asked), timeout=SEEN_WITHIN_S)[0]:
        with suppress(ray.exceptions.RayError):
            free[asked[answer]] = ray.get(answer)
    return min(free, key=lambda node: free[node], default=None)


def on_gpu(node: str, function: Callable[..., Any], *arguments: Any, within_s: float) -> Any:
    """What a function returns that has a whole GPU of a node.

    Args:
        node: which.
        function: what to call.
        arguments: with what.
        within_s: seconds, with those in which the GPU is still taken.

    Raises:
        TimeoutError: it took longer.
        ray.exceptions.RayError: the function raised, or the node has gone.
    """
    (answer,) = _call(function, {node: arguments}, gpus=1)
    try:
        return ray.get(answer, timeout=within_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)  # else it would be told only when it next runs Python code
        raise TimeoutError(f"no whole GPU of it was free within {within_s:.0f} s") from None
    except KeyboardInterrupt:
        ray.cancel(answer, force=True)
        raise


def _call(function: Callable[..., Any], arguments: Mapping[str, Iterable[Any]], gpus: float = 0) -> list[Any]:
    """Begin to call a function on nodes, each with its arguments and so much of a GPU; what to wait for."""
    remote = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(function)
    return [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*given)
        for node, given in arguments.items()
    ]


def _free_memory() -> int:
    """Bytes, by a process of its own: this one would keep some."""
    code = "import torch; print(torch.cuda.mem_get_info()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SEEN_WITHIN_S)
    return int(done.stdout)


def _look(store: Store) -> None:
    store.check_owner()


def _end(*pids: int) -> None:
    """Send SIGTERM to processes of this machine, and wait until they have ended, for as long as they may take to save."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + termination.GRACE_S
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
