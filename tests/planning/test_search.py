"""Searches beyond grids: what is proposed, what is told, and going on after an interruption."""

import dataclasses
import errno
from contextlib import nullcontext

import pytest
from quick import builder, values_of
from rich.console import Console
from toy import toy

from raysp.data.sources import open_source
from raysp.engine.options import RunOptions
from raysp.engine.packing.crowd import Trial
from raysp.engine.progress import Progress
from raysp.engine.ray import cluster, connection
from raysp.engine.sweep import BrokenOff, _runner, run_sweep
from raysp.planning.proposals import Search, SearchQueue, objectives_of, proposed, read_proposals, write_proposals
from raysp.planning.tune_searchers import TuneAlgorithm
from raysp.planning.weighing import Weighing
from raysp.stages import predictable
from raysp.store.lock import StoreBusy
from raysp.store.records import Store
from sweeps.searching import read_search

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own imports warn

ROWS = [
    {"exit": "final", "val_accuracy": 80.0, "relus": 110, "macs": 1100, "depth": 11},
    {"exit": "ac3", "val_accuracy": 50.0, "relus": 55, "macs": 550, "depth": 5},
]


EMPTY = {"history": [], "rows": []}


def no_network(record):
    raise AssertionError


class Scripted:
    """Proposes what it is told to, and notes what it is told."""

    def __init__(self, *values):
        self.values, self.told, self.asked = values, {}, 0

    def ask(self, number):
        self.asked += 1
        return self.values[number] if number < len(self.values) else None

    def tell(self, number, objectives):
        assert number not in self.told
        self.told[number] = objectives


def largest():
    return predictable.largest(builder().network, Weighing())


def toy_search(trials=4, seeds=1, behaviour=""):
    """Proposals `{"n": 7}`: toy leaves on one root, or on one that fails where n is odd."""

    def build(values):
        roots = {0: toy("root", number=1), 1: toy("root", number=2, behaviour=behaviour)}
        root = roots[values["n"] % 2]
        return [toy("leaf", {"root": root}, number=10 * values["n"] + seed) for seed in range(seeds)]

    return Search(algorithm="toy", axes={"n": tuple(range(10))}, trials=trials, fixed={}, build=build, largest=largest())


def test_what_no_proposal_waits_for_is_not_weighed(tmp_path, monkeypatch):
    queue, _, held = queue_of(tmp_path, toy_search(trials=1), Scripted({"n": 0}))
    root, weighed = queue.next(), []
    monkeypatch.setattr(queue, "_weighed", lambda record: weighed.append(record) or ROWS)
    queue.done(root, EMPTY)
    queue.done(leaf := queue.next(), EMPTY | {"rows": ROWS})
    assert leaf.name == "leaf" and len(weighed) == 1 and weighed[0]["rows"] == ROWS
    held.__exit__(None, None, None)


def queue_of(tmp_path, search, algorithm, slots=2):
    added = []
    store = Store(root=tmp_path)
    held = store.lock()
    owner = held.__enter__()
    progress = Progress([], lambda: slots, Console(quiet=True))
    progress.added = lambda found, missing: added.append((found, missing))
    return SearchQueue(search, algorithm, [], owner, outline=no_network, at_once=lambda: slots, progress=progress), added, held


def test_asks_only_when_a_slot_would_be_idle_and_tells_what_came_of_it(tmp_path):
    algorithm = Scripted({"n": 0}, {"n": 2}, {"n": 4})
    queue, added, held = queue_of(tmp_path, toy_search(trials=3), algorithm)
    root = queue.next()
    assert root.name == "root" and len(added) == 1
    assert queue.next() is None and len(added) == 2  # both of the open ones wait for the root
    assert queue.next() is None and len(added) == 2
    queue.done(root, EMPTY)
    first, second = queue.next(), queue.next()
    assert {first.config.number, second.config.number} == {0, 20}
    assert not queue.exhausted and not algorithm.told
    queue.done(first, EMPTY | {"rows": ROWS})
    assert algorithm.told == {0 if first.config.number == 0 else 1: objectives_of(ROWS, largest(), Weighing())}
    third = queue.next()
    assert third.config.number == 40 and queue.next() is None
    queue.done(third, EMPTY | {"rows": ROWS})
    queue.failed(second, "told to")
    assert queue.exhausted and queue.next() is None
    assert sorted(algorithm.told) == [0, 1, 2] and None in algorithm.told.values()
    held.__exit__(None, None, None)


def test_seeds_are_told_as_one():
    other = [{**row, "val_accuracy": row["val_accuracy"] + 10} for row in ROWS]
    found = objectives_of([*ROWS, *other], largest(), Weighing())
    assert found["val_accuracy"] == 55.0 and found["depth"] == 5
    assert objectives_of(ROWS[:1], largest(), Weighing())["val_accuracy"] == 80.0


def test_score_is_the_share_of_the_box():
    largest = {"relus": 100, "macs": 1000, "depth": 10}
    row = {"exit": "final", "val_accuracy": 80.0, "relus": 55, "macs": 550, "depth": 5.5}
    assert objectives_of([row], largest, Weighing())["score"] == pytest.approx(0.8 * 0.5**3)
    row = {**row, "relus": 200}
    assert objectives_of([row], largest, Weighing())["score"] == 0.0


def test_a_failed_ancestor_fails_its_proposals(tmp_path):
    algorithm = Scripted({"n": 1}, {"n": 3}, {"n": 0})
    queue, _, held = queue_of(tmp_path, toy_search(trials=3), algorithm, slots=1)
    root = queue.next()
    assert len(queue.failed(root, "told to")) == 1
    good = queue.next()  # the second proposal has the same ancestor, and is over at once
    assert good.name == "root" and good.config.number == 1
    assert algorithm.told == {0: None, 1: None}
    assert len(queue.outcome.skipped) == 2
    held.__exit__(None, None, None)


def swept(root, search, monkeypatch, algorithm=None, **options):
    if algorithm:
        monkeypatch.setattr("raysp.engine.sweep.make_algorithm", lambda search, earlier: algorithm)
    return run_sweep(
        proposed(search, root),
        root,
        [],
        RunOptions(**({"inline": True} | options)),
        labels={},
        console=Console(quiet=True),
        search=search,
    )


def test_given_again_it_goes_on(tmp_path, monkeypatch):
    values = [{"n": n} for n in (4, 2, 4, 6)]
    first = Scripted(*values)
    outcome = swept(tmp_path, toy_search(trials=3), monkeypatch, first)
    assert len(outcome.done) == 3 and sorted(first.told) == [0, 1, 2]  # the third was the first again
    assert first.told[2] == first.told[0]
    search = toy_search(trials=4)
    assert read_proposals(tmp_path, search) == values[:3]
    second = Scripted(*values)
    outcome = swept(tmp_path, search, monkeypatch, second)
    assert len(outcome.done) == 1 and sorted(second.told) == [0, 1, 2, 3]
    assert second.told | first.told == second.told
    assert not swept(tmp_path, search, monkeypatch, Scripted(*values)).done


class Hesitant(Scripted):
    """Has nothing to propose the first time that it is asked for a number, and after its last."""

    def ask(self, number):
        first = number not in self.__dict__.setdefault("seen", set())
        self.seen.add(number)
        return None if first else super().ask(number)


def test_a_proposal_that_comes_later_is_waited_for(tmp_path, monkeypatch):
    outcome = swept(tmp_path, toy_search(trials=3), monkeypatch, Hesitant({"n": 2}, {"n": 4}, {"n": 6}))
    assert len(outcome.done) == 4 and len(read_proposals(tmp_path, toy_search())) == 3


def test_an_algorithm_that_has_no_more_ends_the_search(tmp_path, monkeypatch):
    algorithm = Scripted({"n": 2}, {"n": 4})
    assert len(swept(tmp_path, toy_search(trials=9), monkeypatch, algorithm).done) == 3
    assert algorithm.asked < 1000


def test_a_proposal_that_cannot_be_built_is_left_out(tmp_path, monkeypatch):
    search = toy_search(trials=3)
    build = search.build

    def picky(values):
        if values["n"] == 5:
            raise ValueError("there is no 5")
        return build(values)

    search = dataclasses.replace(search, build=picky)
    algorithm = Scripted({"n": 2}, {"n": 5}, {"n": 4})
    outcome = swept(tmp_path, search, monkeypatch, algorithm)
    assert len(outcome.done) == 3 and algorithm.told[1] is None and sorted(algorithm.told) == [0, 1, 2]
    again = swept(tmp_path, dataclasses.replace(search, trials=4), monkeypatch, Scripted(*algorithm.values, {"n": 6}))
    assert len(again.done) == 1


def test_earlier_proposals_are_kept_whatever_the_algorithm_says(tmp_path, monkeypatch):
    swept(tmp_path, toy_search(trials=2), monkeypatch, Scripted({"n": 2}, {"n": 4}))
    other = Scripted({"n": 6}, {"n": 4}, {"n": 8})
    outcome = swept(tmp_path, toy_search(trials=3), monkeypatch, other)
    assert len(outcome.done) == 1 and sorted(other.told) == [1, 2]
    assert [values["n"] for values in read_proposals(tmp_path, toy_search())] == [2, 4, 8]


def test_a_search_that_another_run_has_gone_on_with_is_not_overwritten(tmp_path, monkeypatch):
    search = toy_search(trials=3)
    late = Scripted({"n": 6})
    values = [{"n": 2}, {"n": 4}]

    def meanwhile(search, earlier):
        with Store(root=tmp_path).lock() as store:
            write_proposals(store, search, values)
        return late

    monkeypatch.setattr("raysp.engine.sweep.make_algorithm", meanwhile)
    with pytest.raises(StoreBusy, match="gone on with this search meanwhile"):
        swept(tmp_path, search, monkeypatch)
    assert read_proposals(tmp_path, search) == values and not late.told


def test_a_disk_that_fills_up_under_the_proposals_breaks_off_what_is_running(tmp_path, monkeypatch):
    written = []

    def fill_up(*arguments):
        written.append(arguments)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_proposals(*arguments)

    monkeypatch.setattr("raysp.planning.proposals.write_proposals", fill_up)
    values = [{"n": 2}, {"n": 4}]
    with pytest.raises(BrokenOff, match="No space left"):
        swept(tmp_path, toy_search(trials=2), monkeypatch, Scripted(*values))
    outcome = swept(tmp_path, toy_search(trials=2), monkeypatch, Scripted(*values))
    assert len(outcome.done) == 1, "what was trained before is found"


def test_a_search_asks_a_cluster_that_can_grow_for_more_than_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda *arguments, **options: nullcontext())
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.0)
    there, possible = [{"CPU": 1.0}], [{"CPU": 1.0}] * 3
    monkeypatch.setattr(cluster, "alive_nodes", lambda: there)
    monkeypatch.setattr(cluster, "possible_nodes", lambda: possible)
    with _runner(RunOptions(gpus_per_stage=0), Trial(), Console(quiet=True)) as runner:
        assert runner.at_once() == 5 and runner.slots() == 1
        there += possible[1:]
        assert runner.at_once() == runner.slots() == 3


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to("nowhere")])
def test_proposals_that_are_no_file_are_named(tmp_path, make):
    search = toy_search()
    path = tmp_path / "searches" / f"{search.id}.json"
    path.parent.mkdir()
    make(path)
    with pytest.raises(ValueError, match=r"move it away"):
        proposed(search, tmp_path)


def test_another_search_has_its_own_proposals(tmp_path):
    search = toy_search()
    others = [
        toy_search(seeds=2),
        dataclasses.replace(search, algorithm="other"),
        dataclasses.replace(search, axes={"n": (0, 1)}),
    ]
    assert len({search.id, *(other.id for other in others)}) == 4
    assert dataclasses.replace(search, trials=9).id == search.id


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"proposals": 3}', '{"proposals": [{"m": 1}]}', '{"proposals": [{"n": 99}]}', '{"proposals": [{"n": [1]}]}'],
)
def test_proposals_that_cannot_be_read_are_named_and_kept(tmp_path, content):
    search = toy_search()
    path = tmp_path / "searches" / f"{search.id}.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"move it away"):
        proposed(search, tmp_path)
    assert path.read_text() == content


def test_optuna_learns_of_all_objectives(tmp_path):
    pytest.importorskip("optuna")
    search = read_search(
        "optuna", 12, ["budgets", "d-th"], values_of(d_th=(0.05, 0.3), ac_after=((), (3,))), builder(), Weighing()
    )
    algorithm = TuneAlgorithm(search, [])
    proposals = [algorithm.ask(number) for number in range(4)]
    for number, values in enumerate(proposals):
        assert 0.1 <= values["budget"] <= 0.4 and 0.05 <= values["d_th"] <= 0.3 and values["ac_after"] in ((), (3,))
        algorithm.tell(number, None if number == 3 else objectives_of(ROWS[: 1 + number % 2], search.largest, search.weighing))
    study = algorithm._searcher._ot_study
    assert [trial.values for trial in study.trials[:2]] == [[80.0, 110.0, 1100.0, 11.0], [50.0, 55.0, 550.0, 5.0]]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE", "MINIMIZE"]
    again = TuneAlgorithm(search, proposals)
    assert [again.ask(number) for number in range(4)] == proposals
    assert again.ask(4) not in proposals


@pytest.mark.slow
def test_optuna_proposes_while_a_sweep_runs_and_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    build = builder(0.1)
    source = open_source("digits", None, None)

    def search(trials):
        return read_search("optuna", trials, ["budgets"], values_of(d_th=(None, 0.3)), build, Weighing())

    def run(trials, **options):
        what = search(trials)
        return run_sweep(
            proposed(what, tmp_path),
            tmp_path,
            [source],
            RunOptions(**options),
            labels={},
            console=Console(quiet=True),
            search=what,
        )

    assert run(2, inline=True).ok
    on_ray = run(5, address="local", max_concurrent=2, gpus_per_stage=0)
    assert on_ray.ok and len(read_proposals(tmp_path, search(5))) == 5
    assert all(Store(root=tmp_path).read(leaf) for leaf in proposed(search(5), tmp_path))
