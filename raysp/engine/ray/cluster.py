"""The Ray cluster that a sweep runs on: connecting to it, and what of it a stage can have.

Owns the start and end of a local Ray, and the arithmetic of places. Refuses to schedule (`raysp.engine.ray.tune`). Contract:
what can never be placed is refused before anything trains, with what was asked for and what the cluster has.
"""

import logging
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import ray_constants
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_get

from raysp.engine.termination import Terminated
from raysp.store.remedies import SETTINGS

Resources = Mapping[str, float]

LOOK_EVERY_S = 2.0
"""Seconds between two looks at the cluster's nodes."""

AUTOSCALER_WITHIN_S = 60.0
"""Seconds that Kubernetes' autoscaler has for its first report."""

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()
"""Where `ray up` describes the cluster on its head."""


class PlacementError(ValueError):
    """No node of the cluster can ever run what a stage asks for."""


@contextmanager
def connect(address: str | None, *, verbose: bool) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    Args:
        address: of a running cluster, or "local" for one of our own that ends with the block; None takes RAY_ADDRESS, or
            what `ray start` started on this machine, or else a local one.
        verbose: let Ray's own messages through.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours: checkpoints are on disk, there is nothing to save
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a notice about a changed default
    if not verbose:
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a table of settings even at verbosity 0
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        try:
            with _on_loopback() if starts_one(address) else nullcontext():
                _init(address, verbose=verbose)
        except ConnectionError as error:
            raise ConnectionError(f"{error}; start a cluster there, give another --address, or --address local") from error
        if not verbose:
            logging.getLogger("ray").setLevel(logging.ERROR)
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a dead worker's traceback; we say what it means
        try:
            yield
        finally:
            ray.shutdown()


def starts_one(address: str | None) -> bool:
    """Whether `connect` would start a local Ray."""
    target = address or os.environ.get("RAY_ADDRESS")
    return target == "local" or (not target and not _started_here().exists())


def _init(address: str | None, *, verbose: bool) -> None:
    # None means RAY_ADDRESS, or the last `ray start` here, or a new local Ray; "auto" would also join the private Ray of another
    # sweep, and end with it.
    level = logging.INFO if verbose else logging.ERROR
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, include_dashboard=False, logging_level=level, log_to_driver=verbose, **_settings(address))
    except SystemExit:  # Ray's own answer to SIGTERM while it starts
        raise Terminated from None
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there


def _settings(address: str | None) -> dict[str, Any]:
    """What `ray.init` is told of this process' environment, so that workers reach the results as it does. A local Ray inherits
    all of it; nodes that others have started have their own.
    """
    found = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    return {"runtime_env": {"env_vars": found}} if found and not starts_one(address) else {}


def _started_here() -> Path:
    """The file in which `ray start` leaves the address of what it started."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108 (Ray's own choice)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """What Ray starts in the block listens on the loopback interface alone, and not, as it otherwise would, on all of them."""
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR  # as Ray itself has it where clusters aren't supported
    before, enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _check_reachable(address: str) -> None:
    """Raise ConnectionError if nothing listens at `host:port`, as Ray itself would try for minutes; or if it is no address."""
    if match := re.fullmatch(r"\[?([^\[\]/]+)\]?:(\d+)", address):
        try:
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(
                f"no Ray cluster answers at {address} ({error}); start one there, or use --address local"
            ) from None
    elif address not in ("", "auto", "local") and "://" not in address:
        raise ConnectionError(f"address {address!r}; expected HOST:PORT of a running Ray cluster, or --address local")


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
