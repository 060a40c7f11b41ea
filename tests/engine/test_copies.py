"""Sweeps in which several stages train the same: one of them trains, the others are copied."""

import dataclasses

import pytest
from rays import two_cpus
from records import record_of
from rich.console import Console
from toy import toy, twins

from raysp.engine import copies
from raysp.engine.context import Place
from raysp.engine.options import RunOptions
from raysp.engine.progress import Progress
from raysp.engine.ray.cluster import Request, Slots
from raysp.engine.sweep import BrokenOff, run_sweep, start_halving
from raysp.planning.plan import JobQueue, Plan, survey
from raysp.planning.proposals import Search
from raysp.planning.weighing import Weighing
from raysp.store.records import SAME_AS, Store
from raysp.store.tensor_files import load_tensors

INLINE = RunOptions(inline=True, gpus_per_stage=0)
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """What all toys of these tests write, wherever they train."""
    path = tmp_path_factory.mktemp("log") / "log"
    path.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_LOG", str(path))
        yield path


@pytest.fixture(scope="module")
def on_ray(log):
    with two_cpus() as options:
        yield options


@pytest.fixture(autouse=True)
def trained(log):
    """Labels of the stages that trained so far in a test, once per epoch."""
    log.write_text("")
    return lambda: [line.split()[0] for line in log.read_text().splitlines()]


def run(leaves, root, options=INLINE, console=None, **more):
    return run_sweep(leaves, root, [], options, labels={"preset": "toy"}, console=console or Console(quiet=True), **more)


def chain(*behaviours):
    """A root, stages on it that train the same, and a child of the last."""
    root = toy("root", number=1)
    same = twins(*behaviours, parents={"p": root}, number=5)
    return [*same, toy("child", {"p": same[-1]}, number=6)]


def result(root, stage):
    """What doesn't depend on who has trained: record and weights."""
    store = Store(root=root)
    record = store.read(stage)
    kept = {
        name: record[name] for name in ("key", "config", "history", "rows", "parents", "canonical", "version") if name in record
    }
    metrics = {name: value for name, value in record["metrics"].items() if name != SAME_AS}
    tensors = load_tensors(store.directory(stage) / "weights.safetensors", record["files"]["weights.safetensors"])
    return kept, metrics, {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Roots in which each stage of `chain("", "b", "c")` has trained itself; by its key."""
    roots = {}
    for behaviour in ("", "b", "c"):
        root = tmp_path_factory.mktemp("alone")
        leaves = chain(behaviour)
        assert run(leaves, root).ok
        roots |= {leaf.key: root for leaf in leaves}
    return roots


def test_one_trains_and_all_are_as_if_they_had(either_way, tmp_path, console, alone, trained):
    before = len(trained())
    first, second, third, _ = leaves = chain("", "b", "c")
    assert run(leaves, tmp_path, either_way, console).ok
    assert {label.partition("-")[0] for label in trained()[before:]} == {"root", "twin", "child"}
    assert trained()[before:].count(first.label) == 3 and second.label not in trained()[before:]
    for leaf in leaves:
        assert result(tmp_path, leaf) == result(alone[leaf.key], leaf)
    copy = Store(root=tmp_path).read(third)
    assert copy["metrics"][SAME_AS] == first.key and copy["time_s"] == 0 and copy["labels"]["preset"] == "toy"
    assert copy["rows"][0]["gamma"] == "c"
    said = console.file.getvalue()
    assert said.count(f", the same as {first.label}  (") == 2 and "(5/5)" in said
    assert not run(leaves, tmp_path, either_way).done


def test_where_the_first_fails_the_next_trains(either_way, tmp_path, trained):
    first, second, third, child = leaves = chain("raise", "b", "c")
    outcome = run(leaves, tmp_path, either_way)
    assert list(outcome.failed) == [first.key] and {second.key, third.key, child.key} < set(outcome.done)
    assert trained().count(second.label) == 3 and third.label not in trained()
    assert Store(root=tmp_path).read(third)["metrics"][SAME_AS] == second.key


def test_a_later_sweep_copies_what_an_earlier_one_trained(either_way, tmp_path, trained):
    (first, _), (later, _) = chain("b"), chain("c")
    assert run([first], tmp_path).ok
    assert run([later], tmp_path, either_way).ok
    assert later.label not in trained() and result(tmp_path, later)[2] == result(tmp_path, first)[2]


def test_killed_between_training_and_copy_it_goes_on(tmp_path, monkeypatch, alone, trained):
    class Killed(BaseException):
        pass

    def kill(*arguments):
        raise Killed

    leaves = chain("", "b", "c")
    real = copies._copy
    monkeypatch.setattr(copies, "_copy", kill)
    with pytest.raises(Killed):
        run(leaves, tmp_path)
    monkeypatch.setattr(copies, "_copy", real)
    before = len(trained())
    assert run(leaves, tmp_path).ok
    assert {label.partition("-")[0] for label in trained()[before:]} == {"child"}
    assert all(result(tmp_path, leaf) == result(alone[leaf.key], leaf) for leaf in leaves)


@pytest.mark.parametrize("file", ["weights.safetensors", "record.json"])
def test_what_is_damaged_is_not_copied(file, tmp_path, console, trained):
    """Nor is it in the later sweep's plan, so that nothing else would have told."""
    (first, _), (second, third, _) = chain(""), chain("b", "c")
    run([first], tmp_path)
    damaged = Store(root=tmp_path).directory(first) / file
    damaged.write_bytes(damaged.read_bytes().replace(b'"value"', b'"other"', 1))
    assert run([second, third], tmp_path, INLINE, console).ok
    assert trained().count(second.label) == 3 and third.label not in trained()
    assert Store(root=tmp_path).read(third)["metrics"][SAME_AS] == second.key


def full(*arguments):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_ends_the_run_and_blames_no_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_copy", full)
    with pytest.raises(BrokenOff, match="No space left"):
        run(chain("", "b"), tmp_path)


def test_on_ray_too(tmp_path, monkeypatch):
    from raysp.engine.ray.searcher import GraphSearcher

    first, second = stages = twins("", "b")
    run([first], tmp_path)
    monkeypatch.setattr(copies, "_copy", full)
    with Store(root=tmp_path).lock() as store:
        queue = JobQueue([second], equals=copies.equals_in(store))
        slots = Slots(Request(num_threads=1, gpus=0), most=1)
        monkeypatch.setattr(slots, "to_hand_out", lambda: 1)
        progress = Progress(stages, lambda: 1, Console(quiet=True))
        searcher = GraphSearcher(queue, Place(store=store), progress, slots, 1)
        assert searcher.suggest("one") == "FINISHED"
        assert isinstance(searcher.lost, OSError) and not queue.outcome.failed


def test_copies_in_a_search_are_told_to_it(tmp_path, monkeypatch, trained):
    told = {}

    class Scripted:
        def ask(self, number):
            return {"n": "abc"[number]}

        def tell(self, number, objectives):
            told[number] = objectives

    largest = {"relus": 100, "macs": 100, "depth": 100}
    search = Search(
        algorithm="toy", axes={"n": ("a", "b", "c")}, trials=3, fixed={}, build=lambda v: chain(v["n"])[:1], largest=largest
    )
    monkeypatch.setattr("raysp.engine.sweep.make_algorithm", lambda search, earlier: Scripted())
    outcome = run([], tmp_path, search=search)
    assert outcome.ok and len(outcome.done) == 4 and len(set(trained())) == 2
    assert told[0] is not None and told[0] == told[1] == told[2]


def test_no_time_is_expected_of_copies(tmp_path, console):
    first, second, _ = chain("", "b")
    progress = Progress([first, second], lambda: 1, console)
    progress.started(first)
    progress.epoch(first, {"epoch": 1, "epochs": 3, "time_s": 10.0})
    assert progress.seconds_left() == 20 + 30
    progress.following = {second.key}
    assert progress.seconds_left() == 20


def test_given_again_a_copy_competes_only_if_the_one_that_trained_does_not(tmp_path):
    """Of two the one that adds less to the front is given up; of three it would be one of those that are alike."""
    first, copy, other = [dataclasses.replace(stage, stoppable=True) for stage in (*twins("", "b"), toy(number=3))]
    row = {"exit": "final", "val_accuracy": 90.0, "relus": 5, "macs": 5, "depth": 5}
    less = {"exit": "final", "val_accuracy": 10.0, "relus": 4, "macs": 5, "depth": 5}
    history = [{"epoch": epoch, "val_by_exit": {"final": 90.0}, "time_s": 1.0} for epoch in (1, 2, 3)]
    with Store(root=tmp_path).lock() as store:
        for stage, metrics in ((first, {}), (copy, {SAME_AS: first.key})):
            store.commit(stage, record_of(stage, [row], history=history, metrics=metrics), {})
    for leaves in ([first, copy, other], [copy, other]):
        plan = Plan(leaves)
        halving = start_halving(plan, survey(plan, store), store, Weighing())
        halving.arrived(other.key, halving.until(other.key), [less])
        halving.settle()
        assert halving.stopped_at(other.key) is not None
