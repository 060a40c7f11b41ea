"""What of the connected Ray cluster a stage can have.

Owns the arithmetic of places. Refuses to connect (`raysp.engine.ray.connection`) and to schedule (`raysp.engine.ray.searcher`).
Contract: what can never be placed is refused before anything trains, with what was asked for and what the cluster has.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_get

from raysp.store.home import home_of

Resources = Mapping[str, float]

LOOK_EVERY_S = 2.0
"""Seconds between two looks at the cluster's nodes."""

AUTOSCALER_WITHIN_S = 60.0
"""Seconds that Kubernetes' autoscaler has for its first report."""

BOOTSTRAP = (home_of() or Path("/")) / "ray_bootstrap_config.yaml"
"""Where `ray up` describes the cluster on its head."""


class PlacementError(ValueError):
    """No node of the cluster can ever run what a stage asks for."""


def gpus_for(asked: float | None) -> float:
    """GPUs for each worker of a stage: those that were asked for, else 1 where the connected cluster has, or can add, any.

    Raises:
        PlacementError: nothing was asked for, and the cluster may add nodes of which nobody knows what they have.
    """
    if asked is not None:
        return asked
    kinds = possible_nodes()
    if any(node.get("GPU") for node in (*alive_nodes(), *(kinds or ()))):
        return 1.0
    if kinds is None:
        raise PlacementError(
            "no node of the cluster has a GPU now, and its autoscaler doesn't say which it can add; give "
            "--gpus-per-stage: 0 for the CPU, or how many GPUs"
        )
    return 0.0


def alive_nodes() -> list[Resources]:
    """What each node of the connected cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def possible_nodes() -> list[Resources] | None:
    """What each node has that the cluster's autoscaler may have at most: nothing where there is no autoscaler, None where there
    is one that doesn't say.
    """
    # Ray has no call that tells: even without an autoscaler its monitor reports as if there were one. `ray up` leaves a
    # description of the cluster on its head; Kubernetes' operator leaves nothing.
    if not _autoscales() or not (BOOTSTRAP.exists() or "KUBERNETES_SERVICE_HOST" in os.environ):
        return []
    try:
        described = yaml.safe_load(BOOTSTRAP.read_text())
        most = int(described.get("max_workers", 0))
        kinds = [kind for name, kind in described["available_node_types"].items() if name != described.get("head_node_type")]
        return [kind["resources"] for kind in kinds for _ in range(min(most, int(kind.get("max_workers", most))))]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _autoscales() -> bool:
    """Whether a monitor has reported to the connected cluster: the older one leaves its status, the newer a version."""
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return bool(_internal_kv_get(b"__autoscaling_status")) or status.stats.autoscaler_version not in (None, "0")
    except Exception:  # neither is a promise of Ray's
        return False


def await_autoscaler(gpus: float | None) -> None:
    """On Kubernetes, wait a minute at most for the autoscaler's first report, unless a node is there that a stage may need.

    It is a container beside the head's, which answers earlier; until it reports, the cluster looks as if it couldn't grow.

    Args:
        gpus: that each worker of a stage asks for; None where that depends on the cluster.
    """
    kind, deadline = "CPU" if gpus == 0 else "GPU", time.monotonic() + AUTOSCALER_WITHIN_S
    while "KUBERNETES_SERVICE_HOST" in os.environ and time.monotonic() < deadline:
        if _autoscales() or any(node.get(kind) for node in alive_nodes()):
            return
        time.sleep(LOOK_EVERY_S)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a stage asks the cluster for."""

    num_threads: int
    """CPUs of each of its workers."""
    gpus: float
    """GPUs, or the share of one, of each of its workers."""
    workers: int = 1

    def __str__(self) -> str:
        wants = ", ".join(f"{need:g} {kind}" for kind, need in self.per_worker.items())
        return f"{self.workers} workers of {wants} each" if self.workers > 1 else wants

    @property
    def per_worker(self) -> dict[str, float]:
        """Resources by Ray's names."""
        return {"CPU": float(self.num_threads)} | ({"GPU": self.gpus} if self.gpus else {})

    def slots(self, nodes: Sequence[Resources]) -> int:
        """How many stages fit on these nodes at once; one stage's workers may be spread over several."""
        asked = self.per_worker.items()
        return sum(min(int(node.get(kind, 0.0) / need + 1e-9) for kind, need in asked) for node in nodes) // self.workers

    def check(self) -> None:
        """Raise PlacementError if the connected cluster can't place one stage, and can't grow so that it could."""
        nodes, possible = alive_nodes(), possible_nodes()
        if possible is None or self.slots(nodes) or self.slots(possible):
            return
        has = f"the cluster's nodes have {self._shown(nodes)}"
        has += f", and those that it can add {self._shown(possible)}" if possible else ""
        raise PlacementError(f"a stage asks for {self}, but {has}; ask for less, or add a node")

    def _shown(self, nodes: Sequence[Resources]) -> str:
        """The nodes' resources of the kinds that are asked for; alike ones once, with their number."""
        shown = Counter(", ".join(f"{node.get(kind, 0.0):g} {kind}" for kind in self.per_worker) for node in nodes)
        return "; ".join(f"{number} x ({what})" if number > 1 else what for what, number in shown.items()) or "nothing"


class Slots:
    """How many stages run at once on a cluster that may grow and shrink.

    Args:
        request: of one stage.
        most: at most so many, however large the cluster; None sets no limit.
    """

    def __init__(self, request: Request, most: int | None) -> None:
        self.request, self._most = request, most
        self._looked, self._now, self._can_grow = 0.0, 0, False

    def now(self) -> int:
        """Stages that the cluster had room for at the last look, running ones included; 0 while it has no node for one. Asks
        nobody.
        """
        return self._now if self._most is None else min(self._now, self._most)

    def to_hand_out(self) -> int:
        """Stages to have out at once: where an autoscaler waits for demand, as many again as there is room for; at least one.
        Looks at the cluster, now and then.
        """
        if not self._looked or time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._now, possible = self.request.slots(alive_nodes()), possible_nodes()
            self._can_grow = possible is None or self.request.slots(possible) > self._now
        now = self.now()
        wanted = now + max(now, 4) if self._can_grow else max(now, 1)
        return wanted if self._most is None else min(wanted, self._most)
