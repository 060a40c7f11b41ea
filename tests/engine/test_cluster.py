"""What a stage can have of a cluster, and clusters that can't serve it."""

import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toy import toy, with_helpers

from raysp.data.sources import load_splits, open_source
from raysp.engine.options import RunOptions
from raysp.engine.ray import cluster, connection
from raysp.engine.ray.cluster import PlacementError, Request, Slots
from raysp.engine.ray.nodes import _call
from raysp.engine.sweep import run_sweep
from raysp.store.records import Store
from raysp.store.stage import Stage, StageResult

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
SMALL = 80_000_000
"""Bytes of an object store."""


@pytest.mark.parametrize(
    ("request_", "nodes", "slots"),
    [
        (Request(num_threads=1, gpus=0), [{"CPU": 2.0}], 2),
        (Request(num_threads=1, gpus=0), [{"CPU": 2.0}, {"CPU": 8.0}], 10),
        (Request(num_threads=4, gpus=0), [{"CPU": 2.0}, {"CPU": 8.0}], 2),
        (Request(num_threads=1, gpus=1), [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], 2),
        (Request(num_threads=1, gpus=0.25), [{"CPU": 8.0, "GPU": 1.0}], 4),
        (Request(num_threads=1, gpus=0.1), [{"CPU": 16.0, "GPU": 1.0}], 10),
        (Request(num_threads=1, gpus=0.25), [{"CPU": 3.0, "GPU": 1.0}], 3),
        (Request(num_threads=2, gpus=1, workers=3), [{"CPU": 4.0, "GPU": 2.0}] * 3, 2),
        (Request(num_threads=1, gpus=0, workers=4), [{"CPU": 3.0}], 0),
        (Request(num_threads=1, gpus=0), [], 0),
    ],
)
def test_slots_are_what_the_nodes_have_room_for(request_, nodes, slots):
    assert request_.slots(nodes) == slots


@pytest.fixture
def nodes(monkeypatch):
    """Nodes of a pretended cluster: those that are there, and those that could be added."""
    there, possible = [], []
    monkeypatch.setattr(cluster, "alive_nodes", lambda: there)
    monkeypatch.setattr(cluster, "possible_nodes", lambda: possible)
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.0)
    return there, possible


def test_what_can_never_be_placed_is_refused_with_what_there_is(nodes, monkeypatch):
    there, possible = nodes
    there += [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]
    Request(num_threads=4, gpus=0).check()
    with pytest.raises(
        PlacementError, match="a stage asks for 4 CPU, 1 GPU, but the cluster's nodes have 4 CPU, 0 GPU; 2 CPU, 1"
    ):
        Request(num_threads=4, gpus=1).check()
    with pytest.raises(PlacementError, match="asks for 7 workers of 1 CPU each"):
        Request(num_threads=1, gpus=0, workers=7).check()
    monkeypatch.setattr(cluster, "possible_nodes", lambda: None)
    Request(num_threads=99, gpus=1).check()  # the autoscaler doesn't say what it can bring
    monkeypatch.setattr(cluster, "possible_nodes", lambda: possible)
    possible += [{"CPU": 8.0, "GPU": 1.0}]
    Request(num_threads=4, gpus=1).check()  # the autoscaler can bring such a node
    with pytest.raises(PlacementError, match="and those that it can add 8 CPU, 1 GPU; ask for less, or add a node"):
        Request(num_threads=9, gpus=1).check()
    possible += [{"CPU": 8.0, "GPU": 1.0}]
    Request(num_threads=1, gpus=1, workers=2).check()
    with pytest.raises(PlacementError, match=r"can add 2 x \(8 CPU, 1 GPU\)"):
        Request(num_threads=1, gpus=1, workers=3).check()


def test_gpus_are_used_where_there_are_or_can_be_any(nodes, monkeypatch):
    there, possible = nodes
    there.append({"CPU": 4.0})
    assert [cluster.gpus_for(asked) for asked in (None, 0, 0.25)] == [0.0, 0, 0.25]
    possible.append({"CPU": 4.0, "GPU": 1.0})
    assert cluster.gpus_for(None) == 1.0
    monkeypatch.setattr(cluster, "possible_nodes", lambda: None)
    with pytest.raises(PlacementError, match="give --gpus-per-stage: 0 for the CPU"):
        cluster.gpus_for(None)


def test_slots_follow_the_cluster_and_ask_for_more_where_it_can_grow(nodes):
    there, possible = nodes
    slots, bounded = Slots(Request(num_threads=1, gpus=1), None), Slots(Request(num_threads=1, gpus=1), 3)
    assert (slots.to_hand_out(), slots.now()) == (1, 0), "one stage waits, so that a node that comes is used"
    there.append({"CPU": 8.0, "GPU": 2.0})
    assert (slots.to_hand_out(), slots.now()) == (2, 2)
    possible += [{"CPU": 8.0, "GPU": 8.0}] * 2
    assert (slots.to_hand_out(), slots.now(), bounded.to_hand_out()) == (6, 2, 3)
    there += [{"CPU": 8.0, "GPU": 8.0}]
    assert (slots.to_hand_out(), slots.now(), bounded.to_hand_out(), bounded.now()) == (20, 10, 3, 3)
    there += [{"CPU": 8.0, "GPU": 8.0}]
    assert (slots.to_hand_out(), slots.now()) == (18, 18), "it has all nodes that it may have"
    there.clear()
    assert (slots.to_hand_out(), slots.now()) == (4, 0)


def test_the_description_that_ray_up_leaves_says_what_can_come(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "_autoscales", lambda: True)
    monkeypatch.setattr(cluster, "BOOTSTRAP", tmp_path / "none.yaml")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cluster.possible_nodes() == [], "every head has a monitor, which reports without an autoscaler, too"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert cluster.possible_nodes() is None
    monkeypatch.setattr(cluster, "BOOTSTRAP", Path(__file__).parents[2] / "cluster.yaml")
    assert cluster.possible_nodes() == [{"CPU": 4, "GPU": 1}] * 4, "the head runs no stage"
    monkeypatch.setattr(cluster, "_autoscales", lambda: False)
    assert cluster.possible_nodes() == []


@pytest.mark.parametrize(
    ("there", "gpus", "looks"),
    [([], None, 3), ([{"CPU": 4.0}], 0.25, 3), ([{"CPU": 4.0}], 0, 1), ([{"CPU": 4.0, "GPU": 1.0}], None, 1)],
)
def test_on_kubernetes_an_autoscaler_has_time_for_its_first_report(nodes, monkeypatch, there, gpus, looks):
    nodes[0].extend(there)
    asked = []
    monkeypatch.setattr(cluster, "_autoscales", lambda: asked.append(None) or len(asked) == 3)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    cluster.await_autoscaler(gpus)
    assert not asked, "elsewhere nothing is waited for"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    cluster.await_autoscaler(gpus)
    assert len(asked) == looks
    asked.clear()
    monkeypatch.setattr(cluster, "AUTOSCALER_WITHIN_S", 0.0)
    cluster.await_autoscaler(gpus)  # no longer than that


@pytest.fixture(scope="module")
def two_nodes():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", with_helpers())
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        yield made
    made.shutdown()


@pytest.fixture(scope="module")
def both(two_nodes):
    """The cluster with its second node, which stays: its object store is small, and its toys are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_EPOCH_S", "0.5")
        two_nodes.add_node(num_cpus=1, object_store_memory=SMALL)
    two_nodes.wait_for_nodes()
    return two_nodes


def run(leaves, root, made, console=None, **options):
    options = RunOptions(address=made.address, gpus_per_stage=0, **options)
    return run_sweep(leaves, root, [], options, labels={}, console=console or Console(quiet=True))


@pytest.mark.slow
def test_a_sweep_uses_a_node_that_comes_and_survives_one_that_goes(two_nodes, tmp_path):
    with pytest.raises(PlacementError, match="a stage asks for 2 CPU, but the cluster's nodes have 1 CPU"):
        run([toy()], tmp_path, two_nodes, threads_per_stage=2)
    added = []
    begun = time.monotonic()

    class Watching(Console):
        """A console that adds a node at the first stage's end, and takes it away once it has done a stage."""

        def print(self, *things, **how):
            ended = sum("[green]done" in str(thing) for thing in things)
            self.ended = getattr(self, "ended", 0) + ended
            if ended and self.ended == 1:
                added.append(two_nodes.add_node(num_cpus=1))
            if added and len({record["metrics"]["node"] for record in _records(tmp_path)}) == 2:
                two_nodes.remove_node(added.pop(), allow_graceful=False)

    leaves = [_where(number) for number in range(6)]
    # Until Ray has noticed that the node is gone, which takes longer on a busy machine, a stage may be given to it again.
    outcome = run(leaves, tmp_path, two_nodes, Watching(quiet=True), retries=100)
    assert outcome.ok, outcome.failed
    nodes = {record["metrics"]["node"] for record in _records(tmp_path)}
    assert len(nodes) == 2, f"both nodes were used within {time.monotonic() - begun:.0f} s"


def _where(number):
    return Stage(name="where", version=1, config=toy(number=number).config, run=_report_node, epochs=3)


def _report_node(config, context):
    """Its node, after a while. All stages but the first last until one has begun on another node, however long that takes."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    nodes = context.place.store.root / "nodes"
    first = not nodes.exists()
    nodes.mkdir(exist_ok=True)
    (nodes / node).touch()
    deadline = time.monotonic() + 120
    while not first and len(list(nodes.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    for epoch in range(3):
        time.sleep(0.5)
        context.report({"epoch": epoch + 1, "epochs": 3})
    return StageResult(metrics={"node": node})


def _records(root):
    return Store(root=root).records()[0]


@pytest.mark.slow
def test_a_node_that_does_not_see_the_results_is_named_before_anything_trains(both, tmp_path, monkeypatch):
    # The second node shares this machine's files; a process-wide setting makes the lock file invisible to its workers.
    monkeypatch.setattr("raysp.engine.ray.nodes._look", _see_nothing)
    with pytest.raises(ValueError, match=r"no lock file that .* can see: expected a directory that all nodes share"):
        run([toy()], tmp_path, both)
    assert not list(tmp_path.glob("stages/*"))


def _see_nothing(store):
    Store(root=Path("/nonexistent/results"), run_id=store.run_id).check_owner()


@pytest.mark.slow
def test_stages_of_two_workers_spread_over_nodes_and_wait_for_each_other(both, tmp_path):
    # Both are ready at once, and there is room for one.
    outcome = run([toy(number=1), toy(number=2, behaviour="raise")], tmp_path, both, workers_per_stage=2)
    (message,) = outcome.failed.values()
    assert "RuntimeError: this stage was told to fail" in message, (
        "the code's own error, not that of the worker that it left alone"
    )
    (record,) = _records(tmp_path)
    assert record["host"]["workers"] == 2
    alone = run_sweep(
        [toy(number=1)], tmp_path / "alone", [], RunOptions(inline=True, gpus_per_stage=0), labels={}, console=Console(quiet=True)
    )
    assert alone.ok and _records(tmp_path / "alone")[0]["rows"] == record["rows"]


@pytest.mark.slow
def test_a_stages_news_stay_on_the_node_of_who_waits_for_them(both):
    import ray

    from raysp.engine.ray.train import _queue_here

    with connection.connect(connection.find(both.address), verbose=False):
        queues = [_queue_here() for _ in range(4)]  # anywhere would mean both nodes
        where = ray.get([queue.actor.__ray_call__.remote(_node_of) for queue in queues])
        assert set(where) == {ray.get_runtime_context().get_node_id()}


def _node_of(actor):
    import ray

    return ray.get_runtime_context().get_node_id()


@pytest.mark.slow
def test_images_are_read_from_the_nodes_object_store_without_a_copy(both, tmp_path):
    source = open_source("digits", None, tmp_path)
    stage = Stage(name="look", version=1, config=source.config, run=_look_at_images, epochs=1)
    options = RunOptions(address=both.address, gpus_per_stage=0)
    assert run_sweep([stage], tmp_path / "r", [source], options, labels={}, console=Console(quiet=True)).ok
    (record,) = _records(tmp_path / "r")
    assert record["metrics"] == {"own copy": False, "writeable": False, "sum": int(load_splits(source).train.images.sum())}


@pytest.mark.slow
def test_images_that_a_nodes_object_store_is_too_small_for_are_read_from_its_disk(both):
    import ray

    with connection.connect(connection.find(both.address), verbose=False):
        (there,) = [each["NodeID"] for each in ray.nodes() if each["Resources"].get("object_store_memory") == SMALL]
        images = ray.put(np.ones(120_000_000, dtype=np.uint8))
        (answer,) = _call(_sum_of, {there: (images,)})
        assert ray.get(answer, timeout=60) == 120_000_000


def _sum_of(images):
    return int(np.sum(images, dtype=np.int64))


def _look_at_images(config, context):
    images = context.splits(config).train.images
    total = int(np.sum(images))
    return StageResult(metrics={"own copy": images.flags.owndata, "writeable": images.flags.writeable, "sum": total})


def test_what_does_not_go_together_is_refused():
    for options, message in (
        ({"workers_per_stage": 0}, "workers_per_stage is 0; expected 1 to"),
        ({"workers_per_stage": 2, "inline": True}, "inline is one process"),
        ({"workers_per_stage": 2, "gpus_per_stage": 0.5}, "expected a whole number for each worker, or 0"),
        ({"workers_per_stage": 2, "gpus_per_stage": "auto"}, "gpus_per_stage is auto, and 2 workers_per_stage"),
        ({"retries": -1}, "retries is -1; expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RunOptions(**options)
