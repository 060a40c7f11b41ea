"""Steps that are recorded and replayed, imitated on a CPU; `test_cuda.py` has them on a GPU."""

from contextlib import nullcontext

import parallel
import pytest
import recorded
import torch
from rich.console import Console

from raysp.data.sources import open_source
from raysp.engine.options import check_cuda_graph, uses_graph
from raysp.engine.sweep import RunOptions, run_sweep
from raysp.engine.workers import ALONE
from raysp.stages.chain import ChainBuilder, Choice
from raysp.stages.presets import PRESETS
from raysp.training import replay, step
from raysp.training.batches import Batches, Pick
from raysp.training.replay import Replayed
from raysp.training.step import Step

STOPS = (1, 5, 7, 13, 18)
"""Of seven steps an epoch: while warming up, in mid-epoch, at an epoch's end."""

RECORDINGS = {
    "senet": 2,
    "counterfactual": 2,
    "batchnorm": 2,
    "snl": 2,
    "gated": 3,
    "slowly gated": 3,
    "walk": 2,
    "frozen": 2,
    "snl_walk": 2,
}
"""What is decided changes with masks that freeze, searches and walks that end, gates that open and close; not with what they
are."""


@pytest.fixture
def recordings(monkeypatch):
    found = []
    monkeypatch.setattr(replay, "record", recorded.imitate(found))
    monkeypatch.setattr("raysp.training.loop.own_stream", nullcontext)
    monkeypatch.setattr(step, "RATE_IN_TENSOR", ("cpu",))
    return found


@pytest.mark.parametrize("case", recorded.CASES)
def test_replayed_steps_train_what_others_do(case, recordings):
    eager = recorded.of_case(case, uses_graph=False, stops=STOPS)
    assert len(eager) == parallel.EPOCHS + len(STOPS)
    assert not recordings
    whole = recorded.of_case(case, uses_graph=True)
    assert len(recordings) == RECORDINGS.get(case, 1)
    assert not recorded.difference(whole[-1:], eager[-1:])
    assert not recorded.difference(recorded.of_case(case, uses_graph=True, stops=STOPS), eager)


@pytest.mark.parametrize("case", ["gated", "senet"])
def test_so_they_do_in_bf16(case, recordings):
    eager = recorded.of_case(case, "bf16", uses_graph=False)
    assert not recorded.difference(recorded.of_case(case, "bf16", uses_graph=True), eager)
    assert len(recordings) == RECORDINGS[case]


@pytest.mark.parametrize("case", recorded.CASES)
def test_a_training_is_its_steps_written_out(case):
    """As it was composed before steps could be recorded: images made beside the step, losses added up into new tensors."""
    task, recipe = parallel.make(case)
    batches = Batches(parallel.DATA, parallel.splits(), torch.device("cpu"))
    images, labels = batches._parts["train"]
    one, losses = Step(task, recipe, ALONE), []
    for epoch in range(recipe.epochs):
        for group in one.optimizer.param_groups:
            group["lr"] = recipe.lr_at(epoch) * group["lr_share"]
        task.begin_epoch(epoch)
        task.model.train()
        generator = torch.Generator().manual_seed((5 << 31) ^ epoch)
        order = torch.randperm(len(labels), generator=generator)
        draws = [batches._draw(len(part), generator) for part in torch.split(order, recipe.batch_size)]
        total = torch.zeros(())
        for made, (where, (top_left, mirrored)) in enumerate(zip(torch.split(order, recipe.batch_size), draws, strict=True)):
            batch = batches._normalise(batches._vary(images[where], top_left, mirrored))
            total = total + 1.0 * one(batch, labels[where], 1.0)
            task.between_steps(made + 1, ALONE)
        losses.append(float(total) / len(draws))
        task.model.eval()
        task.end_epoch(epoch, one.optimizer)
    tensors, state = recorded.of_case(case, uses_graph=False)[-1]
    assert [figures["loss"] for figures in state["history"]] == losses
    model = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    assert not recorded.difference([(model, {})], [(task.model.state_dict(), {})])


class _Scripted:
    """A step that notes whose pick it saw, and decides what it is told."""

    def __init__(self, monkeypatch):
        self.seen, self.decides = [], "one"
        monkeypatch.setattr(replay, "record", self.record)
        self.replayed = Replayed(self.step, lambda: self.decides, 4, torch.device("cpu"))

    def step(self, pick):
        self.seen.append(("step", pick.drawn.tolist()))

    def record(self, step):
        self.seen.append("record")
        return lambda: self.seen.append(("replay", step.args[0].drawn.tolist()))

    def epoch(self, *sizes):
        """Makes an epoch's steps; what was done for each."""
        self.seen.clear()
        self.replayed.begin_epoch()
        for number, size in enumerate(sizes):
            drawn = torch.full((4, size), number)
            self.replayed(Pick(drawn, 1.0))
            assert self.seen[-1][1] == drawn.tolist(), "each sees its own pick"
        return [seen if seen == "record" else seen[0] for seen in self.seen]


def test_a_step_is_recorded_after_three_and_anew_where_another_is_decided(monkeypatch):
    script = _Scripted(monkeypatch)
    assert script.epoch(4, 2) == ["step", "step"]
    assert script.epoch(4, 4, 4, 4, 2) == ["step", "step", "record", "replay", "replay", "step"]
    assert script.epoch(4, 4, 2) == ["replay", "replay", "step"]
    script.decides = "other"
    assert script.epoch(4, 4, 4, 4, 4) == ["step", "step", "step", "record", "replay", "replay"]
    assert script.epoch(2) == ["step"]
    assert script.epoch(4) == ["replay"]


def test_steps_are_recorded_on_gpus():
    assert uses_graph("on", 0.25, 1) and uses_graph("auto", 1.0, 1)
    for choice, gpus, workers in (("off", 1.0, 1), ("auto", 0.0, 1), ("auto", 1.0, 2)):
        assert not uses_graph(choice, gpus, workers)


@pytest.mark.parametrize(("options", "said"), [
    ((0.0, 1), "no GPU; expected auto or off"),
    ((1.0, 2), "2 workers_per_stage; expected one of them"),
])  # fmt: skip
def test_what_cannot_be_recorded_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        check_cuda_graph("on", *options)


def test_a_graph_without_a_gpu_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="stages have no GPU"):
        RunOptions(cuda_graph="on", gpus_per_stage=0)
    if not torch.cuda.is_available():
        options = RunOptions(cuda_graph="on", inline=True)
        digits = open_source("digits", None, None)
        leaf = ChainBuilder(PRESETS["quick"], digits.config, width=4, epochs_scale=0.01).chain(Choice(budget=0.1))
        with pytest.raises(ValueError, match="stages have no GPU"):
            run_sweep([leaf], tmp_path / "r", [digits], options, labels={}, console=Console(quiet=True))
        assert not (tmp_path / "r").exists()
