"""A sweep that is interrupted in every stage against one that wasn't."""

import torch
from quick import run, weights

from analysis.results import results_table
from raysp.engine.context import Context
from raysp.planning.plan import Plan
from raysp.store.records import Store


class Interrupted(BaseException):
    """In the middle of a stage."""


def check_it_ends_bit_identical(root, leaves, tmp_path, monkeypatch):
    """Train in `tmp_path` what has been trained in `root`, stopped at three moments of each stage that trains; compare."""
    interrupted = set()
    save = Context.save_checkpoint

    def save_then_stop(self, tensors, state):
        save(self, tensors, state)
        moment = (self.stage.key, len(state["history"]))
        if moment[1] in (1, 3, self.stage.epochs) and moment not in interrupted:
            interrupted.add(moment)
            raise Interrupted

    monkeypatch.setattr(Context, "save_checkpoint", save_then_stop)
    monkeypatch.setattr("raysp.training.loop.CHECKPOINT_PAUSE", 0.0)
    for _ in range(60):
        try:
            outcome = run(leaves, tmp_path)
        except Interrupted:
            continue
        break
    assert outcome.ok
    stages = Plan(leaves).stages.values()
    trained = [stage for stage in stages if stage.name != "gating"]  # which trains nothing, and has no weights
    assert len(interrupted) == 3 * len(trained)
    assert all(stage.epochs >= 4 for stage in trained)
    for stage in stages:
        if stage in trained:
            one, two = weights(root, stage), weights(tmp_path, stage)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one), stage.label
        assert Store(root=root).read(stage)["metrics"] == Store(root=tmp_path).read(stage)["metrics"]
    columns = results_table(Store(root=root).records()[0]).columns.drop("time_s")
    assert results_table(Store(root=root).records()[0])[columns].equals(results_table(Store(root=tmp_path).records()[0])[columns])
