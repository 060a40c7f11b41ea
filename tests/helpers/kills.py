"""Kills at random moments, of a sweep on two Ray nodes, until it has ended."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from disturbed import FEWER, PATIENCE_S, begin, check, finish, processes, same, say

TITLES = {"trial actor": "ray::ResourceTrainable", "training worker": "ray::RayTrainWorker"}
"""How Ray names the processes; Tune wraps our class in one of its own."""


def killing(scratch: Path, kills: int, chance: random.Random, workers: int) -> None:
    """Kill `kills` times while a sweep with so many workers per stage runs, then let it end."""
    kinds = ["driver", "trial actor", "second raylet"] + (["training worker"] if workers > 1 else [])
    how = ["--workers-per-stage", str(workers), "--retries", "3", *(FEWER if workers > 1 else ())]
    undisturbed, disturbed = scratch / f"undisturbed-{workers}", scratch / f"killed-{workers}"
    begun = time.monotonic()
    finish(undisturbed, *(["--inline"] if workers == 1 else [*how, "--address", "local"]))
    say(f"undisturbed with {workers} per stage: {time.monotonic() - begun:.0f} s")
    # Enough rounds for so many kills: when a sweep has ended before they were all made, it begins anew in another directory.
    counts: Counter[str] = Counter()
    turn: list[str] = []
    rounds = restarts = 0
    with two_nodes() as (address, replace_node):
        while sum(counts.values()) < kills or not rounds:
            rounds += 1
            storage = Path(f"{disturbed}-{rounds}")
            driver = begin(storage, *how, "--address", address)
            unprovoked = 0
            while driver.poll() is None or driver.returncode != 0:
                if driver.poll() is not None:
                    restarts += 1
                    unprovoked += 1
                    check(unprovoked < 4, f"the sweep ends with status {driver.returncode} by itself; see {storage}.log")
                    driver = begin(storage, *how, "--address", address)
                if sum(counts.values()) >= kills:
                    driver.wait(PATIENCE_S)
                    continue
                turn = turn or chance.sample(kinds, len(kinds))  # each kind as often as the others
                kind = turn[-1]
                moment = time.monotonic() + chance.uniform(1.0, 8.0 if workers == 1 else 40.0)
                while time.monotonic() < moment and driver.poll() is None:
                    time.sleep(0.05)
                if driver.poll() is None and _kill(kind, driver, replace_node, chance):
                    turn.pop()
                    counts[kind] += 1
                    unprovoked = 0
                    say(
                        f"  {sum(counts.values())}/{kills}: {kind}, {len(list(storage.glob('stages/*/record.json')))} stages done"
                    )
            same(storage, undisturbed)
            say(f"round {rounds}: as undisturbed, {time.monotonic() - begun:.0f} s gone")
    check(kills < 12 or set(counts) == set(kinds), f"only {sorted(counts)} were killed")
    killed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    say(f"{workers} per stage: killed {killed} in {rounds} sweeps with {restarts} restarts; all ended as undisturbed")


def _kill(kind: str, driver: subprocess.Popen[bytes], replace_node: Callable[[], None], chance: random.Random) -> bool:
    """Kill one process of a kind; False if there is none now."""
    if kind == "second raylet":
        replace_node()
        return True
    pids = [driver.pid] if kind == "driver" else [pid for pid, _, line in processes() if line.startswith(TITLES[kind])]
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    if kind == "driver":
        driver.wait()
    return True


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A Ray cluster of two nodes of two CPUs; yields its address, and what kills the second node's raylet and brings another."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = [cluster.add_node(num_cpus=2)]

    def replace() -> None:
        os.kill(second[0].all_processes["raylet"][0].process.pid, signal.SIGKILL)
        time.sleep(1)
        with suppress(Exception):  # it is dead already; this tells the test cluster
            cluster.remove_node(second[0], allow_graceful=False)
        second[0] = cluster.add_node(num_cpus=2)

    try:
        yield cluster.address, replace
    finally:
        cluster.shutdown()
