"""Stage 0: the all-ReLU (AR) baseline, which teaches every student: trained, or a user's own."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from raysp.engine.context import Context
from raysp.models.costs import count_costs
from raysp.models.exits import FINAL
from raysp.stages.experiment import Experiment, exit_rows
from raysp.store.classes import BY_CLASS, by_class, named
from raysp.store.keys import Config, added
from raysp.store.stage import Stage, StageResult
from raysp.training.batches import Batches
from raysp.training.loop import accuracy, tally, train
from raysp.training.recipes import Recipe
from raysp.training.task import Task


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(Config):
    """What an AR baseline depends on."""

    experiment: Experiment
    """Data, network, seed."""
    recipe: Recipe
    """How it trains."""
    given: str | None = added(None)
    """The digest of weights that a user gave, see `raysp.stages.given`; then nothing is trained."""


def baseline_stage(config: BaselineConfig) -> Stage:
    """The stage that trains an AR baseline; it has no parents."""
    note = f"seed {config.experiment.seed}"
    if config.given:
        note = f"given ({config.given[:8]}), {note}"
    epochs = 0 if config.given else config.recipe.epochs
    return Stage(name="baseline", version=2, config=config, run=run, epochs=epochs, note=note)


class CrossEntropyTask(Task):
    """Plain classification."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the final exit."""
        return F.cross_entropy(self.model(images).logits[FINAL], labels)


def run(config: BaselineConfig, context: Context) -> StageResult:
    """Train with cross-entropy; keep the epoch that is best on the validation part; test that one."""
    experiment = config.experiment
    splits = context.splits(experiment.data)
    batches = Batches(experiment.data, splits, context.device)
    model = experiment.build("baseline").to(context.device)
    best_epoch, history = None, []
    if config.given:
        model.load_state_dict(_given(config.given, context))
        val_accuracy = accuracy(model, batches, "val", context.workers)
    else:
        trained = train(CrossEntropyTask(model), config.recipe, experiment.seed, batches, context)
        model.load_state_dict(trained.best_state)
        val_accuracy, best_epoch, history = trained.val_accuracy, trained.best_epoch, trained.history
    experiment.save(model, context)
    costs = count_costs(model)
    tested = tally(model, batches, "test", context.workers)
    rows = exit_rows(
        experiment,
        {FINAL: costs},
        val_accuracy,
        tested.accuracy(),
        budget=model.num_relus(),
        recipe=None if config.given else config.recipe,
    )
    metrics: dict[str, Any] = {"best_epoch": best_epoch, "mean": splits.mean, "std": splits.std}
    metrics |= {"costs": {FINAL: costs.by_layer()}, BY_CLASS: by_class(tested.images, tested.right), **named(splits.classes)}
    return StageResult(metrics=metrics, history=history, rows=rows)


def _given(digest: str, context: Context) -> dict[str, Tensor]:
    """The weights, which whoever started the sweep has put in the place of the stage's last checkpoint."""
    found = context.load_checkpoint()
    if found is None or found[1].get("given") != digest:
        raise RuntimeError("the weights of --baseline are no longer there; give the same command with --baseline again")
    return found[0]
