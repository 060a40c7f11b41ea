"""Toy stages that behave like real ones (epochs, checkpoints, rows) and cost nothing."""

import dataclasses
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from raysp.store.keys import Config
from raysp.store.stage import Stage, StageResult

HELPERS = Path(__file__).parent
"""For the paths of processes that tests start."""


def with_helpers():
    """A PYTHONPATH by which Ray's workers find the toys, too."""
    return os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config):
    number: int = 0
    epochs: int = 3
    behaviour: str = ""
    """`raise`, `nan`, or `die once` (the worker is killed the first time)."""


def toy_run(config, context):
    value = torch.tensor([float(config.number)], dtype=torch.float64)
    for parent in context.parents.values():
        value += parent.tensors()["value"]
    history = []
    if checkpoint := context.load_checkpoint():
        tensors, state = checkpoint
        value, history = tensors["value"], state["history"]
    for epoch in range(len(history), config.epochs):
        time.sleep(float(os.environ.get("TOY_EPOCH_S", "0")))
        # A chain in which every epoch counts: one left out or run twice gives another number.
        value = torch.sin(value * 1.7 + epoch) * 3
        if epoch == 1 and config.behaviour == "raise":
            raise RuntimeError("this stage was told to fail [/red] ü")
        if epoch == 1 and config.behaviour == "die once":
            marker = context.place.store.root / "died"
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        loss = float("nan") if config.behaviour == "nan" else float(value)
        with Path(os.environ.get("TOY_LOG", os.devnull)).open("a") as log:
            log.write(f"{context.stage.label} {epoch}\n")
        history.append({"epoch": epoch + 1, "loss": loss, "time_s": 0.0})
        context.save_checkpoint({"value": value}, {"history": history})
        context.report({"epochs": config.epochs, **history[-1]})
    context.save_weights({"value": value})
    row = {"dataset": "toy", "seed": config.number, "exit": "final", "val_accuracy": float(value), "test_accuracy": float(value)}
    row |= {"relus": config.number, "macs": 1, "depth": 1, "params": 1, "mask_method": "none", "budget": 1}
    row |= {"ac_after": None, "d_th": None, "model": "toy", "width": 1, **toy_columns(config)}
    return StageResult(metrics={"value": float(value)}, history=history, rows=[row])


def toy(name="toy", parents=None, version=1, **config):
    made = ToyConfig(**config)
    return Stage(name=name, version=version, config=made, run=toy_run, epochs=made.epochs, parents=parents or {})


def diamond(epochs=3, leaves=3, **middle):
    """A root, two stages on it, and leaves on both."""
    root = toy("root", number=1, epochs=epochs)
    left = toy("left", {"root": root}, number=2, epochs=epochs, **middle)
    right = toy("right", {"root": root}, number=3, epochs=epochs)
    return [toy("leaf", {"left": left, "right": right}, number=10 + n, epochs=epochs) for n in range(leaves)]


def toy_canonical(config, parents):
    """What toy stages come to that differ in their behaviour alone."""
    return dataclasses.replace(config, behaviour="")


def toy_columns(config):
    return {"gamma": config.behaviour or None}


def twins(*behaviours, name="twin", parents=None, **config):
    """Stages that train the same, one per behaviour."""
    stages = [toy(name, parents, behaviour=behaviour, **config) for behaviour in behaviours]
    return [dataclasses.replace(stage, canonical=toy_canonical, columns=toy_columns) for stage in stages]
