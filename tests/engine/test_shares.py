"""What of a GPU each stage of a run gets under `--gpus-per-stage auto`, with figures that nobody measured."""

import os
import sys
import time
from contextlib import contextmanager

import pytest
import ray
from toy import diamond, toy

from raysp.engine.options import RunOptions
from raysp.engine.packing import mps
from raysp.engine.packing.crowd import Trial
from raysp.engine.packing.rule import Measured
from raysp.engine.ray import cluster, connection, shares
from raysp.engine.ray.nodes import on_gpu
from raysp.engine.sweep import run_sweep
from raysp.engine.termination import Terminated

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
AUTO = RunOptions(gpus_per_stage="auto", address="local")
TRIAL = Trial(stages=[toy()], at_once=40)
FAST = Measured(rates={1: 1.0, 2: 2.0, 4: 3.0, 8: 3.1}, memory=10**9, room=78 * 10**9)


@pytest.fixture
def happened(monkeypatch):
    """What was begun and ended, on a pretended machine with one GPU and 16 cores, whose Ray is none."""
    events = []

    @contextmanager
    def block(name, value=None):
        events.append(f"{name} begins")
        try:
            yield value
        finally:
            events.append(f"{name} ends")

    monkeypatch.setattr(mps, "started", lambda: block("MPS", mps.Mps(True, "MPS started")))
    monkeypatch.setattr(connection, "connect", lambda *arguments, **options: block("Ray"))
    monkeypatch.setattr(cluster, "alive_nodes", lambda: [{"CPU": 16.0, "GPU": 1.0}])
    monkeypatch.setattr(cluster, "possible_nodes", list)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr("raysp.engine.surroundings.control_groups", lambda root, controller: [])
    return events


def measured(monkeypatch, happened, found):
    def measure(trial, most):
        happened.append(f"up to {most} are measured")
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(shares, "measure", measure)


def test_several_share_a_gpu_under_mps_which_ends_after_ray(happened, monkeypatch, console):
    measured(monkeypatch, happened, FAST)
    with shares.connect(AUTO, TRIAL, console) as gpus:
        assert gpus == 0.25
    expected = ["MPS begins", "up to 16 are measured", "Ray begins", "Ray ends", "MPS ends"]
    assert happened == expected
    assert console.file.getvalue() == "GPUs: 4 stages on each, 3.0 times as fast as one (8 gain 3 % more), MPS started\n"


@pytest.mark.parametrize("found", [Measured(rates={1: 1.0, 2: 1.0}), Measured(rates={}, failed="it couldn't be measured (x)")])
def test_for_one_stage_on_each_mps_is_ended_before_ray_begins(found, happened, monkeypatch, console):
    measured(monkeypatch, happened, found)
    with shares.connect(AUTO, TRIAL, console) as gpus:
        assert gpus == 1.0
    assert happened == ["MPS begins", "up to 16 are measured", "MPS ends", "Ray begins", "Ray ends"]
    assert console.file.getvalue().startswith("GPUs: one stage on each: ")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(), RuntimeError()])
def test_mps_ends_whatever_ends_the_run(error, happened, monkeypatch, console):
    measured(monkeypatch, happened, FAST)
    with pytest.raises(type(error)), shares.connect(AUTO, TRIAL, console):
        raise error
    assert happened[-2:] == ["Ray ends", "MPS ends"]
    happened.clear()
    measured(monkeypatch, happened, error)
    with pytest.raises(type(error)), shares.connect(AUTO, TRIAL, console):
        pass
    assert happened == ["MPS begins", "up to 16 are measured", "MPS ends"]


@pytest.mark.parametrize(
    ("options", "trial", "gpus", "share", "line"),
    [
        ({}, TRIAL, 0, 1.0, "GPUs: there is none now, so nothing was measured\n"),
        ({}, Trial(stages=[toy()], at_once=1), 1, 1.0, "GPUs: one stage on each: no more are ready at the same time\n"),
        ({}, Trial(stages=[toy()], at_once=4), 4, 1.0, "GPUs: one stage on each: no more are ready at the same time\n"),
        ({"max_concurrent": 1}, TRIAL, 1, 1.0, "GPUs: one stage on each: no more are ready at the same time\n"),
        ({"threads_per_stage": 9}, TRIAL, 1, 1.0, "GPUs: one stage on each: 16 CPU cores for each GPU, and 9 for each stage\n"),
        ({}, Trial(at_once=9), 1, 1.0, "GPUs: one stage on each: no stage is known yet that could be measured\n"),
        ({"gpus_per_stage": 0.5}, TRIAL, 1, 0.5, ""),
        ({"gpus_per_stage": None}, TRIAL, 1, 1.0, ""),
        ({"gpus_per_stage": 0}, TRIAL, 1, 0, ""),
    ],
)
def test_where_there_is_nothing_to_choose_nothing_is_measured(options, trial, gpus, share, line, happened, monkeypatch, console):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    measured(monkeypatch, happened, AssertionError("measured"))
    with shares.connect(RunOptions(**{"gpus_per_stage": "auto", "address": "local"} | options), trial, console) as found:
        assert found == share
    assert happened == ["Ray begins", "Ray ends"]
    assert console.file.getvalue() == line


NODES = [
    {"Alive": True, "NodeID": "a", "NodeManagerHostname": "one", "Resources": {"CPU": 32.0, "GPU": 2.0}},
    {"Alive": True, "NodeID": "b", "NodeManagerHostname": "two", "Resources": {"CPU": 8.0, "GPU": 1.0}},
    {"Alive": True, "NodeID": "c", "NodeManagerHostname": "three", "Resources": {"CPU": 64.0}},
    {"Alive": False, "NodeID": "d", "NodeManagerHostname": "four", "Resources": {"CPU": 1.0, "GPU": 1.0}},
]


@pytest.mark.parametrize(
    ("node", "found", "share", "line"),
    [
        ("b", FAST, 0.25, "GPUs: 4 stages on each, 3.0 times as fast as one (8 gain 3 % more), without MPS: on two\n"),
        (None, FAST, 1.0, "GPUs: one stage on each: no node's GPU says what memory it has\n"),
        (
            "b", TimeoutError("no whole GPU of it was free within 240 s"), 1.0,
            "GPUs: one stage on each: on two it couldn't be measured (no whole GPU of it was free within 240 s)\n",
        ),
    ],
)  # fmt: skip
def test_on_a_cluster_one_node_measures_and_mps_is_left_alone(node, found, share, line, happened, monkeypatch, console):
    asked = []

    def on_gpu(node, function, trial, most, *, within_s):
        asked.append((node, most))
        if isinstance(found, Exception):
            raise found
        return found, "without MPS: on two"

    monkeypatch.setattr(connection, "find", lambda address: connection.Target(address=address))
    monkeypatch.setattr("ray.nodes", lambda: NODES)
    monkeypatch.setattr(shares, "least_memory", lambda nodes: node if set(nodes) == {"a", "b"} else "none of these")
    monkeypatch.setattr(shares, "on_gpu", on_gpu)
    with shares.connect(RunOptions(gpus_per_stage="auto", address="somewhere:1"), TRIAL, console) as gpus:
        assert gpus == share
    assert asked == ([("b", 8)] if node else []), "8 CPU cores go with that node's GPU"
    assert happened == ["Ray begins", "Ray ends"]
    assert console.file.getvalue() == line


def test_where_the_cluster_has_no_gpu_yet_a_stage_waits_for_a_whole_one(happened, monkeypatch, console):
    monkeypatch.setattr(connection, "find", lambda address: connection.Target(address=address))
    monkeypatch.setattr("ray.nodes", lambda: NODES[2:])
    with shares.connect(RunOptions(gpus_per_stage="auto", address="somewhere:1"), TRIAL, console) as gpus:
        assert gpus == 1.0
    assert console.file.getvalue() == "GPUs: there is none now, so nothing was measured\n"


@pytest.fixture
def findable(monkeypatch):
    """Toys, for other processes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.mark.slow
@pytest.mark.usefixtures("findable")
def test_a_whole_sweep_without_a_gpu_trains_on_the_cpu(tmp_path, console):
    outcome = run_sweep(diamond(leaves=2), tmp_path, [], AUTO, labels={}, console=console)
    assert outcome.ok and len(outcome.done) == 5
    assert "GPUs: there is none now, so nothing was measured" in console.file.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("findable")
def test_a_cluster_whose_gpu_is_none_is_told_so(console, monkeypatch):
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1})
    try:
        with shares.connect(RunOptions(gpus_per_stage="auto", address=made.address), TRIAL, console) as gpus:
            assert gpus == 1.0
            line = console.file.getvalue()
            assert line == "GPUs: one stage on each: no node's GPU says what memory it has\n"
            console.file.truncate(0)
            monkeypatch.setattr(shares, "least_memory", lambda nodes: next(iter(nodes)))
            assert shares._packed_there(AUTO, TRIAL, console) is None
            assert "GPUs: one stage on each: it couldn't be measured (" in console.file.getvalue()
            (node,) = (each["NodeID"] for each in ray.nodes())
            with pytest.raises(TimeoutError, match="no whole GPU of it was free within 2 s"):
                on_gpu(node, lambda seconds: time.sleep(seconds), 600, within_s=2)
            assert on_gpu(node, lambda: os.environ["CUDA_VISIBLE_DEVICES"], within_s=60) == "0", "it is free again"
    finally:
        made.shutdown()
