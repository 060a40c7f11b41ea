"""Every kind of task as a stage on a tiny network, for tests that train it on several workers or interrupt it.

Run as a program, it is one worker of several: `parallel.py DIRECTORY RANK SIZES...` trains every case in groups of each size.
"""

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Splits
from raysp.engine import termination
from raysp.engine.context import Place
from raysp.engine.job import run_job
from raysp.engine.termination import Terminated
from raysp.engine.workers import Workers
from raysp.methods.choices import SnlConfig
from raysp.methods.distillation import StudentTask
from raysp.methods.positions import top_positions
from raysp.methods.scores import ScoreTask
from raysp.methods.snl import SnlTask, SnlWalkTask
from raysp.methods.walk import WalkTask
from raysp.models import network_of
from raysp.models.builtin import Architecture, BasicBlock, SmallImageNetwork
from raysp.models.collapse import fold_batchnorm
from raysp.stages.baseline import CrossEntropyTask
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, FinetuneTask
from raysp.stages.sensitivity import SensitivityConfig, SparseTask
from raysp.store.keys import Config, key_of
from raysp.store.records import Store
from raysp.store.stage import Stage, StageResult
from raysp.training import loop
from raysp.training.batches import Batches
from raysp.training.loop import accuracy, tally, train
from raysp.training.recipes import Recipe
from raysp.training.task import Task

DATA = DataConfig(name="digits", num_classes=4, channels=1, image_size=8, crop_padding=1)
EXPERIMENT = Experiment(data=DATA, model="resnet18", width=4, seed=3)
BATCH = 16
NUM_TRAIN = 98
"""Six steps of 16 images and one of 2: uneven parts for three workers, and a last batch too small to share out."""
EPOCHS = 4
CASES = ("baseline", "senet", "counterfactual", "snl", "sparse", "gated", "batchnorm", "walk", "frozen", "snl_walk")


@dataclass(frozen=True, kw_only=True)
class CaseConfig(Config):
    case: str
    epochs: int = EPOCHS


def splits():
    """Classes that differ in brightness, with noise."""
    random = np.random.default_rng(0)

    def part(num):
        labels = random.integers(0, 4, num)
        images = random.integers(0, 60, (num, 1, 8, 8)) + 60 * labels.reshape(-1, 1, 1, 1)
        return Part(images=images.astype(np.uint8), labels=labels)

    # Three test images are too few for two workers.
    return Splits(train=part(NUM_TRAIN), val=part(33), test=part(3), mean=[0.47], std=[0.27])


def network(seed, *, share=1.0, gates=(), after=(), folded=True):
    torch.manual_seed(seed)
    tiny = Architecture(name="tiny", block=BasicBlock, convs_per_stage=(2, 2, 2), width_multiples=(1, 2, 2), default_width=4)
    plain = SmallImageNetwork(tiny, num_classes=4, image_size=8, in_channels=1, width=4)
    model = network_of(plain, name="tiny", num_classes=4, image_size=8, in_channels=1)
    for layer in model.relu_layers():
        layer.relu.set_mask(top_positions(torch.rand(layer.relu.shape), round(share * layer.relu.size)))
    for index in gates:
        model.gated_blocks()[index][1].add_shallow_branch(3)
    for stage in after:
        model.add_exit(stage, "pool")
    if not folded:
        return model
    model = fold_batchnorm(model)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing normalises: large weights would explode
            parameter.mul_(0.95)
    return model


def recipe(epochs=EPOCHS, **changes):
    return Recipe(**{"epochs": epochs, "milestones": (2,), "batch_size": BATCH, "lr": 0.05} | changes)


def make(case, epochs=EPOCHS):
    """The case's task and recipe."""
    teacher = network(1, folded=case != "batchnorm")
    if case == "baseline":
        return CrossEntropyTask(network(2)), recipe(epochs)
    if case in ("snl", "snl_walk"):
        snl = SnlConfig(penalty=0.01, alpha_share=20.0)
        task = (SnlWalkTask if case == "snl_walk" else SnlTask)(
            network(2), teacher, snl, budget=300, granularity="pixel", rho=2.0, max_epochs=epochs - 1
        )
        return task, recipe(epochs, optimizer="adam", lr=0.005)
    if case == "sparse":
        config = SensitivityConfig(experiment=EXPERIMENT, recipe=recipe(epochs), density=0.3)
        return SparseTask(network(2), config), config.recipe
    if case in ("gated", "slowly gated"):
        # A large decay: it would show if it reached the branches that stand idle.
        chosen = recipe(epochs, weight_decay=0.05, lr=0.005, max_gradient=1.0)
        config = FinetuneConfig(experiment=EXPERIMENT, recipe=chosen, gate_epochs=2 if case == "gated" else 3, beta=5.0)
        return FinetuneTask(network(2, share=0.4, gates=(0, 2), after=(1, 2)), teacher, config, any_gated=True), chosen
    if case in ("walk", "frozen"):
        settings = {"kl_weight": 0.5, "rho": 2.0, "granularity": "pixel", "floor": 100, "rounds": 9, "carry": 0.25}
        course = {"steps_per_epoch": -(-NUM_TRAIN // BATCH), "falling_epochs": epochs - 1, "epochs": epochs}
        return WalkTask(network(2), teacher, **settings, **course, trains=case == "walk", every=3), recipe(epochs)
    if case == "random":
        return StudentTask(network(2, share=0.4), teacher, kl_weight=0.5, rho=2.0), recipe(epochs)
    score = "counterfactual" if case == "counterfactual" else "senet"
    student = network(2, share=0.4, folded=case != "batchnorm")
    settings = {"kl_weight": 0.5, "rho": 2.0, "score": score, "granularity": "pixel", "num_updates": epochs - 1}
    return ScoreTask(student, teacher, **settings), recipe(epochs)


LAST: dict = {}
"""The last training in this process: its case's final state, for a look inside."""


def run(config, context):
    task, chosen = make(config.case, config.epochs)
    batches = Batches(DATA, context.splits(DATA), context.device)
    trained = train(task, chosen, 5, batches, context)
    LAST.update(state=task.model.state_dict(), extra=task.extra_state(), best=trained.best_state)
    context.save_weights(trained.best_state | {f"last.{name}": tensor for name, tensor in task.model.state_dict().items()})
    metrics = {"best_epoch": trained.best_epoch, "test": accuracy(task.model, batches, "test", context.workers)}
    return StageResult(metrics=metrics, history=trained.history)


def stage(case, epochs=EPOCHS):
    return Stage(name=f"case_{case}", version=1, config=CaseConfig(case=case, epochs=epochs), run=run, epochs=epochs)


def place_for(store):
    return Place(store=store, splits={key_of(DATA): splits()})


def digest():
    """Of the last training's weights, masks, further state and best epoch."""
    whole = hashlib.sha256()
    for part in LAST.values():
        for name, tensor in sorted(part.items()):
            whole.update(name.encode() + tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def scores():
    """Of the last training, if it was a walk: what its positions' scores add up to, by layer."""
    return {name: float(tensor.sum()) for name, tensor in LAST["extra"].items() if name.startswith("score.")}


def failing(config, context):
    """Rank 1 is gone; what do the others find?"""
    if context.workers.rank == 1:
        raise SystemExit("gone")
    context.workers.sum_(torch.zeros(3))


class Stop(BaseException):
    """As if the process had died."""


def stop_after_two(figures):
    if figures["epoch"] == 2:
        raise Stop


def tell_to_end(figures):
    """Before the second step after the first epoch, as SIGTERM would."""
    after_step = Task.after_step

    def told(task, optimizer):
        Task.after_step = after_step
        termination._running.given = True

    Task.after_step = told


def counted(workers):
    """What a network of several exits has right: of a part that workers share out, and of one too small for that."""
    batches = Batches(DATA, splits(), torch.device("cpu"))
    return {part: vars(tally(network(2, share=0.4, after=(1, 2)), batches, part, workers)) for part in ("val", "test")}


def nobody(figures):
    """Who listens to this report."""


def work(directory, rank, size):
    """Train all cases as one of `size` workers; leave a digest per case of what this rank holds."""
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet-{size}", rank=rank, world_size=size)
    store = Store(root=directory / f"results-{size}", run_id=f"workers-{size}")
    written = []
    write = Store.write
    Store.write = lambda store, path, content: (written.append(path.name), write(store, path, content))
    found = {"rank": Workers(rank, size).from_first(lambda: rank)}
    found["tally"] = counted(Workers(rank, size))
    for case in CASES:
        epochs = []

        def report(figures, to=epochs):
            to.append(figures["epoch"])

        record = run_job(stage(case), place_for(store), report, Workers(rank, size))
        found[case] = {"state": digest(), "epochs": epochs, "history": record["history"]}
    Store.write = write
    again = Store(root=directory / f"again-{size}", run_id=f"workers-{size}")
    for case in ("baseline", "gated"):
        with suppress(Stop):
            run_job(stage(case), place_for(again), stop_after_two, Workers(rank, size))
        run_job(stage(case), place_for(again), stop_after_two, Workers(rank, size))
        found[f"{case} resumed"] = digest()
    # One worker is told to end in the middle of an epoch, and all go on.
    for case in ("senet", "walk"):
        if rank == 0:
            with suppress(Terminated):
                run_job(stage(case), place_for(again), tell_to_end)
        dist.barrier()
        history = run_job(stage(case), place_for(again), nobody, Workers(rank, size))["history"]
        found[f"{case}, other number"] = {"history": history, "scores": scores()}
    (directory / f"rank-{size}-{rank}.json").write_text(json.dumps({**found, "written": written}))
    dist.barrier()
    if size == 3:
        lost = Stage(name="lost", version=1, config=CaseConfig(case="lost"), run=failing, epochs=1)
        try:
            run_job(lost, place_for(store), print, Workers(rank, size))
        except BaseException as error:
            (directory / f"lost-{rank}.json").write_text(json.dumps([type(error).__name__, str(error)]))
        os._exit(0)  # with the others gone, torch can't end in order
    dist.destroy_process_group()


if __name__ == "__main__":
    loop.CHECKPOINT_PAUSE = 0.0  # a checkpoint after every epoch, however long the disk takes
    torch.set_num_threads(1)
    for group in map(int, sys.argv[3:]):
        if int(sys.argv[2]) < group:
            work(Path(sys.argv[1]), int(sys.argv[2]), group)
