"""Stage 2, another way: one order of all ReLUs, from which the mask of every budget follows without training.

Owns the walk's numbers. Contract: a ranking that ends at the usual floor depends on no budget, so that all sweeps over one
network share it; where a walk ends at a budget, its weights are those of that mask.
"""

from dataclasses import dataclass

from raysp.engine.context import Context
from raysp.methods.choices import Granularity, RankingMethod, SnlConfig
from raysp.methods.ranking import PREFIX
from raysp.methods.snl import SnlWalkTask
from raysp.methods.walk import WalkTask
from raysp.models.exits import FINAL
from raysp.models.network import Network
from raysp.stages.experiment import Experiment
from raysp.store.keys import Config, added
from raysp.store.stage import Stage, StageResult
from raysp.training.batches import Batches
from raysp.training.loop import train
from raysp.training.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class RankingConfig(Config):
    """What a ranking depends on, besides its parent.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    experiment: Experiment
    """Data, network, seed."""
    recipe: Recipe
    """How the student trains while it walks; of `frozen`, the epochs and the batch size alone count."""
    method: RankingMethod = "taylor"
    """`taylor` trains the student on the way, `frozen` leaves it the teacher's weights (`raysp.methods.walk`); `snl-walk` goes as
    SNL does (`raysp.methods.snl`)."""
    snl: SnlConfig | None = None
    """The search; for method `snl-walk` alone, for which rounds, carry, every, kl_weight and prices mean nothing."""
    granularity: Granularity = "pixel"
    """What goes as one."""
    floor: int
    """ReLUs at which the walk ends, at least 1; those that are left are ordered by their last score, in `snl-walk` by their sums
    of α."""
    rounds: int = 40
    """How often a new mask is chosen on the way, at least 1."""
    carry: float = 0.25
    """Share of the score so far that counts beside the score of a round, in [0, 1)."""
    every: int = 1
    """One of so many images of a batch is scored, at least 1; the fewer, the less a step costs."""
    falling_share: float = 1.0
    """Share of the epochs in which the count falls, in (0, 1]; in the rest the mask stays."""
    kl_weight: float = 0.5
    """Weight of the distillation term, in [0, 1]; cross-entropy has the rest."""
    rho: float = 4.0
    """Distillation temperature, above 0."""
    depth_price: float = 0.0
    """How readily a block's inner layer is emptied, at least 0: it goes if it is worth less than so many times the average of
    such layers (`raysp.methods.depth`); 0 looks at ReLUs alone."""
    layer_price: float = added(0.0)
    """Likewise of any ReLU layer, by the average of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(
            floor=(self.floor >= 1, "at least 1 ReLU"),
            rounds=(self.rounds >= 1, "at least 1"),
            carry=(0 <= self.carry < 1, "0 to below 1"),
            every=(self.every >= 1, "at least 1"),
            falling_share=(0 < self.falling_share <= 1, "a share above 0, up to 1"),
            kl_weight=(0 <= self.kl_weight <= 1, "a share from 0 to 1"),
            depth_price=(self.depth_price >= 0, "at least 0"),
            layer_price=(self.layer_price >= 0, "at least 0"),
            rho=(self.rho > 0, "a temperature above 0"),
        )
        if (self.method == "snl-walk") != (self.snl is not None):
            raise ValueError(f"method {self.method} with snl {self.snl}; expected a search for snl-walk, and for no other")
        if self.snl and self.recipe.epochs < 2:
            raise ValueError("snl-walk with 1 epoch; expected 2 or more: some to search, and one with the mask frozen")

    @property
    def falling_epochs(self) -> int:
        """Epochs, from the first, in which the count falls."""
        return max(1, round(self.falling_share * self.recipe.epochs))

    @property
    def updated_epochs(self) -> int:
        """Epochs, from the first, after which the mask may change, as a mask stage's; SNL's last epoch never changes it."""
        return min(self.falling_epochs, self.recipe.epochs - 1) if self.snl else self.falling_epochs


def ranking_stage(config: RankingConfig, *, baseline: Stage) -> Stage:
    """The stage that ranks a network's ReLUs.

    Args:
        config: what it depends on.
        baseline: the AR teacher.
    """
    said = config.method + (" by channel" if config.granularity == "channel" else "")
    if config.depth_price:
        said += f", depth price {config.depth_price:g}"
    if config.layer_price:
        said += f", layer price {config.layer_price:g}"
    note = f"{said}, down to {config.floor}, {baseline.note}"
    return Stage(
        name="ranking",
        version=1,
        config=config,
        run=run,
        epochs=config.recipe.epochs,
        parents={"baseline": baseline},
        note=note,
    )


def run(config: RankingConfig, context: Context) -> StageResult:
    """Walk; keep the ranking, and the weights and mask at the walk's end."""
    experiment = config.experiment
    batches = Batches(experiment.data, context.splits(experiment.data), context.device)
    ar_state = context.parents["baseline"].tensors()
    teacher = experiment.teacher(ar_state, context.device)
    student = experiment.build("ranking")
    student.load_state_dict(ar_state)
    task = _task(config, student.to(context.device), teacher, batches.num_batches(config.recipe.batch_size))
    trained = train(task, config.recipe, experiment.seed, batches, context)
    layers = student.relu_layers()
    ranks = {PREFIX + layer.name: part for layer, part in zip(layers, task.ranks(), strict=True)}
    context.save_weights(trained.best_state | ranks)
    metrics = {
        "best_epoch": trained.best_epoch,
        "val_accuracy": trained.val_accuracy[FINAL],
        "layers": [{"layer": layer.name, "kept": layer.relu.kept, "size": layer.relu.size} for layer in layers],
    }
    return StageResult(metrics=metrics, history=trained.history)


def _task(config: RankingConfig, student: Network, teacher: Network, steps_per_epoch: int) -> WalkTask | SnlWalkTask:
    if config.snl:
        return SnlWalkTask(
            student,
            teacher,
            config.snl,
            budget=config.floor,
            granularity=config.granularity,
            rho=config.rho,
            max_epochs=config.updated_epochs,
        )
    return WalkTask(
        student,
        teacher,
        kl_weight=config.kl_weight,
        rho=config.rho,
        granularity=config.granularity,
        floor=config.floor,
        rounds=config.rounds,
        carry=config.carry,
        steps_per_epoch=steps_per_epoch,
        falling_epochs=config.falling_epochs,
        epochs=config.recipe.epochs,
        trains=config.method == "taylor",
        every=config.every,
        depth_price=config.depth_price,
        layer_price=config.layer_price,
    )
