"""The loop over epochs: learning rates, the choice of the best epoch, and a SIGTERM at any moment."""

import dataclasses
import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import parallel
import pytest
import recorded
import torch

from raysp.engine import termination
from raysp.engine.context import Context
from raysp.engine.job import run_job
from raysp.engine.termination import Terminated
from raysp.engine.workers import ALONE
from raysp.stages.sensitivity import SparseTask
from raysp.store.records import Store
from raysp.store.tensor_files import load_tensors
from raysp.training import loop as training
from raysp.training.batches import Pick
from raysp.training.loop import Trained, train
from raysp.training.recipes import Recipe
from raysp.training.step import Step
from raysp.training.task import Task

RECIPE = Recipe(epochs=4, milestones=(), batch_size=8, lr=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_extra_parameters_learn_at_their_own_share_of_the_rate_and_do_not_decay(optimizer):
    class Extra(Task):
        def extra_parameters(self):
            return {"slow": (slow, 0.5), "idle": (idle, 1.0)}

    slow, idle = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    task = Extra(parallel.network(0))
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, weight_decay=0.1)
    weight = task.model.stem_conv.weight
    before = weight.detach().clone()
    one = Step(task, recipe, ALONE).optimizer
    for group in one.param_groups:
        group["lr"] = 0.01 * group["lr_share"]
    weight.grad, slow.grad, idle.grad = torch.zeros_like(weight), torch.ones(1), torch.zeros(1)
    one.step()
    assert idle.item() == 1.0
    assert slow.item() == pytest.approx(1.0 - 0.005, abs=1e-6)
    assert not torch.equal(weight, before), "weights decay"


def test_every_group_follows_the_recipes_rate(monkeypatch):
    rates = []

    class Watched(_Scripted):
        def extra_parameters(self):
            return {"extra": (torch.ones(1, requires_grad=True), 0.5)}

        def after_step(self, optimizer):
            rates.append([group["lr"] for group in optimizer.param_groups])

    monkeypatch.setattr(training, "accuracy", lambda model, batches, part, workers: {"final": 1.0})
    recipe = dataclasses.replace(RECIPE, milestones=(2,))
    train(Watched(parallel.network(0)), recipe, 0, _OneBatch(), recorded.Context("cpu", uses_graph=False))
    assert rates == [[pytest.approx(r), pytest.approx(r / 2)] for r in (0.1, 0.1, 0.01, 0.01)]


class _OneBatch:
    def picks(self, batch_size, seed, epoch, workers, first):
        yield Pick(torch.zeros(4, 12, dtype=torch.int64), 1.0)

    def take(self, pick):
        return torch.randn(12, 1, 8, 8), torch.zeros(12, dtype=torch.long)

    def num_batches(self, batch_size):
        return 1


class _Scripted(Task):
    """Counts what is evaluated; epoch 1 is the best but not eligible."""

    def eligible(self, epoch):
        return epoch != 1

    def loss(self, images, labels):
        return sum(p.sum() for p in self.model.parameters()) * 0.0


def test_the_best_eligible_epoch_is_chosen_on_the_validation_part_alone(monkeypatch):
    parts, scores = [], iter([40.0, 90.0, 60.0, 60.0])
    monkeypatch.setattr(training, "accuracy", lambda model, batches, part, workers: parts.append(part) or {"final": next(scores)})

    trained = train(_Scripted(parallel.network(0)), RECIPE, 0, _OneBatch(), recorded.Context("cpu", uses_graph=False))
    assert isinstance(trained, Trained)
    assert parts == ["val"] * 4
    assert (trained.best_epoch, trained.val_accuracy) == (4, {"final": 60.0}), "the later of two equals"


class _Stop:
    """SIGTERM, as the handler would note it, at chosen steps counted over the whole training."""

    def __init__(self, monkeypatch, steps):
        self._steps, self._made = set(steps), 0
        monkeypatch.setattr(Task, "after_step", self._wrap(Task.after_step))
        monkeypatch.setattr(SparseTask, "after_step", self._wrap(SparseTask.after_step))

    def _wrap(self, after_step):
        def wrapped(task, optimizer):
            after_step(task, optimizer)
            self._made += 1
            if self._made in self._steps:
                termination._running.given = True

        return wrapped


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with Store(root=tmp_path_factory.mktemp("undisturbed")).lock() as store:
        for case in parallel.CASES:
            run_job(parallel.stage(case), parallel.place_for(store), lambda figures: None)
    return store


def what_it_gave(store, case):
    stage = parallel.stage(case)
    record = store.read(stage)
    history = [{name: value for name, value in figures.items() if name != "time_s"} for figures in record["history"]]
    return load_tensors(store.directory(stage) / "weights.safetensors"), record["metrics"], history


def same(store, other, case):
    (one, *figures), (two, *others) = what_it_gave(store, case), what_it_gave(other, case)
    return figures == others and one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("case", parallel.CASES)
def test_terminated_at_any_step_a_training_goes_on_bit_for_bit(case, undisturbed, place, monkeypatch):
    """At the first step of all, inside epochs, at an epoch's last step, and at the last step of all."""
    per_epoch = 7
    chance = random.Random(case)
    stops = {1, per_epoch, 4 * per_epoch} | {chance.randrange(2, 4 * per_epoch) for _ in range(3)}
    _Stop(monkeypatch, stops)
    place = dataclasses.replace(parallel.place_for(place.store), num_threads=1)
    stage, ended = parallel.stage(case), 0
    while True:
        try:
            run_job(stage, place, lambda figures: None)
        except Terminated:
            ended += 1
            _, state = place.store.load_checkpoint(stage)
            step = sorted(stops)[ended - 1]
            assert (len(state["history"]), state["running"]["step"]) == ((step - 1) // per_epoch, (step - 1) % per_epoch + 1)
            assert state["running"]["time_s"] > 0
        else:
            break
    assert ended == len(stops)
    assert same(undisturbed, place.store, case)
    assert not (place.store.directory(stage) / "error.txt").exists()


def test_a_notice_between_epochs_ends_the_training_with_a_whole_epoch_saved(undisturbed, place, monkeypatch):
    measure = training.accuracy

    def terminated(*args):
        termination._running.given = True
        return measure(*args)

    monkeypatch.setattr(training, "accuracy", terminated)
    place, stage = parallel.place_for(place.store), parallel.stage("senet")
    for epoch in (1, 2, 3, 4):
        with pytest.raises(Terminated):
            run_job(stage, place, print)
        _, state = place.store.load_checkpoint(stage)
        assert len(state["history"]) == epoch and "running" not in state
    monkeypatch.undo()
    run_job(stage, place, print)
    assert same(undisturbed, place.store, "senet")


def test_a_notice_in_the_last_report_is_not_lost(place, monkeypatch):
    def report(figures):
        if figures["epoch"] == 4:
            termination._running.given = True

    monkeypatch.setattr(training, "CHECKPOINT_PAUSE", math.inf)
    place, stage = parallel.place_for(place.store), parallel.stage("baseline")
    with pytest.raises(Terminated):
        run_job(stage, place, report)
    assert len(place.store.load_checkpoint(stage)[1]["history"]) == 4, "nor are the epochs since the last checkpoint"


@pytest.mark.parametrize(
    ("taken_s", "until", "saved"), [(0.0, None, [1, 2, 3, 4]), (0.125, None, [1, 4]), (9.0, None, [1]), (9.0, 2, [1, 2])]
)
def test_checkpoints_take_at_most_a_share_of_the_time(taken_s, until, saved, undisturbed, place, monkeypatch):
    """Epochs take a second each here; nothing else does, but the checkpoints."""
    clock, found = 0.0, []
    place, stage = parallel.place_for(place.store), parallel.stage("gated")
    measure, save = training.accuracy, Context.save_checkpoint

    def pass_time(seconds, result=None):
        nonlocal clock
        clock += seconds
        return result

    def slow_save(context, tensors, state):
        found.append(len(state["history"]))
        save(context, tensors, state)
        pass_time(taken_s)

    monkeypatch.setattr(training.time, "monotonic", lambda: clock)
    monkeypatch.setattr(training, "accuracy", lambda *args: pass_time(1.0, measure(*args)))
    monkeypatch.setattr(Context, "save_checkpoint", slow_save)
    record = run_job(stage, place, lambda figures: None, until=until)
    assert found == saved
    if until is None:
        assert same(undisturbed, place.store, "gated")
    else:
        assert record is None and list(place.store.read_rungs(stage)) == [until], "what pauses goes on from there"


def test_a_kill_between_two_checkpoints_costs_epochs_and_no_bits(undisturbed, place, monkeypatch):
    class Killed(BaseException):
        pass

    def report(figures):
        if figures["epoch"] == 3:
            raise Killed

    place, stage = parallel.place_for(place.store), parallel.stage("senet")
    monkeypatch.setattr(training, "CHECKPOINT_PAUSE", math.inf)
    with pytest.raises(Killed):
        run_job(stage, place, report)
    assert len(place.store.load_checkpoint(stage)[1]["history"]) == 1
    seen = []
    run_job(stage, place, lambda figures: seen.append(figures["epoch"]))
    assert seen == [2, 3, 4]
    assert same(undisturbed, place.store, "senet")


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_ends_a_real_process_with_a_checkpoint_that_the_next_takes_up(times, undisturbed, tmp_path):
    program = [sys.executable, str(Path(parallel.__file__).with_name("terminated.py")), str(tmp_path), "counterfactual"]
    for _ in range(times):
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        try:
            for line in process.stdout:
                if line.startswith("step"):
                    process.send_signal(signal.SIGTERM)
                    break
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 143, said
    (checkpoint,) = tmp_path.glob("stages/*/checkpoint.safetensors")
    assert checkpoint.stat().st_size
    ended = subprocess.run([*program, "to the end"], stdout=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 0
    assert not ended.stdout.startswith("step 1 of epoch 0"), "nothing was taken up"
    assert same(undisturbed, Store(root=tmp_path), "counterfactual")


def test_a_training_is_safe_to_end_from_each_checkpoint_to_the_next_step(place, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_PAUSE", 0.0)
    seen = []
    measure, step = training.accuracy, Task.after_step

    def look(where, result=None):
        seen.append((where, termination._running.safe.is_set()))
        return result

    monkeypatch.setattr(training, "accuracy", lambda *args: look("evaluated", measure(*args)))
    monkeypatch.setattr(Task, "after_step", lambda *args: look("stepped", step(*args)))
    run_job(parallel.stage("baseline"), parallel.place_for(place.store), lambda figures: look("reported"))
    assert seen == ([("stepped", False)] * 7 + [("evaluated", False), ("reported", True)]) * 4
