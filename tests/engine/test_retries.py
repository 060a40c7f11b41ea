"""A stage whose worker died is given out again, each time after a longer pause."""

from types import SimpleNamespace

import pytest
from rich.console import Console
from toy import toy

from raysp.engine.context import Place
from raysp.engine.progress import Progress
from raysp.engine.ray import searcher as ray_searcher
from raysp.engine.ray.causes import cause_of, low_memory
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.ray.tune import _Watcher
from raysp.engine.termination import Terminated
from raysp.planning.plan import JobQueue
from raysp.store.records import Store

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ray_searcher, "time", clock)
    return clock


@pytest.fixture
def searcher_of(tmp_path, monkeypatch):
    """Makes a searcher of so many stages and retries, on a cluster with room for four."""
    slots = Slots(Request(num_threads=1, gpus=0), most=4)
    monkeypatch.setattr(slots, "to_hand_out", lambda: 4)
    with Store(root=tmp_path).lock() as store:

        def make(number, retries):
            stages = [toy(number=each) for each in range(number)]
            progress = Progress(stages, lambda: 4, Console(quiet=True))
            return ray_searcher.GraphSearcher(JobQueue(stages), Place(store=store), progress, slots, retries)

        yield make


def test_pauses_grow_up_to_a_limit():
    assert [ray_searcher.pause_before(retry) for retry in (1, 2, 3, 4, 5, 6, 7, 10_000)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_lost_stage_waits_longer_each_time_and_fails_when_retries_are_used_up(searcher_of, clock):
    searcher = searcher_of(1, retries=3)
    job = searcher.suggest("0")["job"]
    for retry, pause_s in enumerate((1.0, 2.0, 4.0), start=1):
        searcher.on_trial_complete(str(retry - 1), error=True)
        assert searcher.retries[str(retry - 1)].pause_s == pause_s
        clock.now += pause_s - 0.01
        assert searcher.suggest(str(retry)) is None, "neither given out too early, nor is the run over"
        clock.now += 0.02
        assert searcher.suggest(str(retry)) == {"job": job}
    searcher.on_trial_complete("3", error=True)
    (message,) = searcher.queue.outcome.failed.values()
    assert "its worker died 4 times" in message
    assert searcher.suggest("4") == "FINISHED"


def test_others_go_on_meanwhile(searcher_of, clock):
    searcher = searcher_of(2, retries=1)
    first = searcher.suggest("0")["job"]
    searcher.on_trial_complete("0", error=True)
    second = searcher.suggest("1")["job"]
    assert second != first
    assert searcher.suggest("2") is None
    clock.now += 1.0
    assert searcher.suggest("2") == {"job": first}
    assert searcher.suggest("3") is None, "what runs may have to be given out again"


ACCOUNT = (
    "ray.exceptions.OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "192.0.2.2, ID: 12e2) was 14.93GB used / 15.36GB limit (0.972)\nOOM kill reason: Memory usage exceeded\nRefer to the manual"
)


def test_low_memory_is_named_with_node_and_share(searcher_of, tmp_path):
    searcher = searcher_of(1, retries=0)
    searcher.suggest("0")
    (tmp_path / "error.txt").write_text(ACCOUNT)
    trial = SimpleNamespace(trial_id="0", error_file=tmp_path / "error.txt")
    _Watcher(searcher).on_step_begin(1, [SimpleNamespace(trial_id="9"), trial])
    searcher.on_trial_complete("0", error=True)
    (message,) = searcher.queue.outcome.failed.values()
    said = (
        "node 192.0.2.2 was low on memory (14.93GB of 15.36GB, 97 %) and Ray ended workers there: give a smaller --max-concurrent"
    )
    assert f"its worker died once, at last because {said}" in message and message.endswith("to go on from its checkpoint")
    assert cause_of(ACCOUNT).startswith(said)
    before = (
        "OutOfMemoryError: Memory on the node (IP: 10.0.0.1, ID: a) where the task (x) was running was 9GB / 9.5GB (0.95), which"
    )
    assert low_memory(before).startswith("node 10.0.0.1 was low on memory (9GB of 9.5GB, 95 %)")


def test_other_deaths_are_said_as_ray_does():
    died = "Traceback:\nray.exceptions.ActorDiedError: The actor died unexpectedly. Some common causes: memory\n  more"
    assert cause_of(died) == "ray.exceptions.ActorDiedError: The actor died unexpectedly." and not low_memory(died)
    assert cause_of("") == "its worker died"


def test_without_retries_there_is_no_pause(searcher_of):
    searcher = searcher_of(1, retries=0)
    searcher.suggest("0")
    searcher.on_trial_complete("0", error=True)
    assert "its worker died once" in next(iter(searcher.queue.outcome.failed.values()))
    assert searcher.suggest("1") == "FINISHED"


def test_a_pause_can_be_interrupted(searcher_of, clock, monkeypatch):
    def told():
        raise Terminated

    searcher = searcher_of(1, retries=1)
    searcher.suggest("0")
    searcher.on_trial_complete("0", error=True)
    monkeypatch.setattr(ray_searcher.termination, "check", told)
    with pytest.raises(Terminated):
        searcher.suggest("1")


def test_a_stage_that_pauses_at_rungs_has_its_retries_each_time(searcher_of, clock):
    searcher = searcher_of(1, retries=2)
    searcher.suggest("0")
    searcher.on_trial_complete("0", error=True)
    clock.now += 1.0
    job = searcher.suggest("1")["job"]
    searcher._judge = lambda *arguments: None  # it has paused, and goes on
    searcher.on_trial_complete("1", {"epoch": 1})
    searcher.running["2"] = job
    searcher.on_trial_complete("2", error=True)
    assert searcher.retries["2"].pause_s == 1.0
