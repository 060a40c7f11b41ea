"""Between mask and fine-tuning: what each block would lose if it were gated, so that a number of gates can be placed (ours).

Owns the measurement's numbers. Trains nothing. Contract: it depends on the student as its fine-tuning would start, so that all
fine-tunings of one mask share it, however many blocks they gate.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from raysp.engine.context import Context
from raysp.methods.choices import Weights
from raysp.methods.gate_choice import measure_gates
from raysp.stages.experiment import Experiment
from raysp.stages.student import measure_body, some_images, start_student
from raysp.store.keys import Config
from raysp.store.stage import Stage, StageResult
from raysp.training.batches import Batches

BATCH_SIZE = 128
"""Images at once; their number changes nothing but the last digits."""


@dataclass(frozen=True, kw_only=True)
class GatingConfig(Config):
    """What the measurement depends on, besides its parents."""

    experiment: Experiment
    """Data, network, seed."""
    weights: Weights
    """Those that the student starts with, see `raysp.stages.finetune.FinetuneConfig`."""
    budget: int | None
    """ReLUs to keep, where the mask comes from a ranking."""
    kernel_size: Literal[3, 5] = 3
    """Of the shallow branches."""


def gating_stage(config: GatingConfig, *, baseline: Stage, mask: Stage) -> Stage:
    """The stage that measures what each block would lose.

    Args:
        config: what it depends on.
        baseline: the AR network, whose weights a rewound student starts with.
        mask: a mask stage, or a ranking.
    """
    kept = "" if config.budget is None else f"{config.budget}, "
    parents = {"baseline": baseline, mask.name: mask}
    return Stage(name="gating", version=1, config=config, run=run, epochs=0, parents=parents, note=f"{kept}{mask.note}")


def run(config: GatingConfig, context: Context) -> StageResult:
    """Start the student, and gate its blocks one after the other."""
    experiment = config.experiment
    batches = Batches(experiment.data, context.splits(experiment.data), context.device)
    student = experiment.build("gating")
    start_student(student, context, config.weights, config.budget)
    student.to(context.device)
    seed = experiment.seed
    if config.weights == "rewind":
        measure_body(student, batches, BATCH_SIZE, seed)
    found = measure_gates(
        student,
        some_images(batches, BATCH_SIZE, seed),
        lambda: some_images(batches, BATCH_SIZE, seed, epoch=1),
        kernel_size=config.kernel_size,
    )
    return StageResult(metrics={"blocks": [asdict(loss) for loss in found]})
