"""What benchmarks train without a stage still trains."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

from raysp.data.config import DataConfig
from raysp.data.sources import Part, Splits
from raysp.methods.distillation import StudentTask
from raysp.stages.experiment import Experiment
from raysp.training.batches import Batches
from raysp.training.loop import train
from raysp.training.recipes import Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_fixed_mask_trains_where_nothing_is_kept(monkeypatch):
    evidence = load("evidence", monkeypatch)
    data = DataConfig(name="digits", num_classes=5, channels=1, image_size=8, crop_padding=1)
    experiment = Experiment(data=data, model="resnet18", width=4)
    random = np.random.default_rng(0)
    part = Part(images=random.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8), labels=random.integers(0, 5, 20))
    splits = Splits(train=part, val=part, test=part, mean=[0.5], std=[0.3])
    task = StudentTask(experiment.build("student"), experiment.build("baseline"), kl_weight=0.5, rho=4.0)
    recipe = Recipe(epochs=1, batch_size=10, lr=0.1, milestones=())
    trained = train(task, recipe, 0, Batches(data, splits, torch.device("cpu")), evidence._Nowhere())
    assert [figures["epoch"] for figures in trained.history] == [1]
