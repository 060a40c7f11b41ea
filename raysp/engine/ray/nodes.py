"""What a driver asks of its cluster's machines themselves, whatever runs on them.

Owns calling a function on given nodes. Contract: takes none of their CPUs or GPUs, and leaves out a node that has gone.
"""

import os
import signal
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
"""Seconds that a node has to say whether it sees the results root."""


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


def _call(function: Callable[..., None], arguments: Mapping[str, Iterable[Any]]) -> list[Any]:
    """Begin to call a function on nodes, each with its arguments; what to wait for."""
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    return [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*given)
        for node, given in arguments.items()
    ]


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
