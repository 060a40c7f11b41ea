"""Records of models that nobody trained, for what is computed of records."""

import itertools
import json

from toy import toy

from raysp.pi.files import FORMAT, name_of
from raysp.planning.plan import Plan
from raysp.store.records import Store
from raysp.store.stage import Stage

CHOICES = {
    "dataset": "digits", "model": "resnet18", "width": 4, "image_size": 8, "epochs": 3, "seed": 0, "selection": "val",
    "precision": "fp32",
    "mask_method": "senet", "granularity": "pixel", "mask_start": "teacher", "depth_price": None, "layer_price": None,
    "sensitivity": "density 0.1",
    "budget": 100, "weights": "continue", "d_th": None, "gate_blocks": None, "gate_loss": None, "max_seconds": None, "link": None,
    "gamma": None, "gate_epochs": None, "gb_init": None, "kernel_size": None,
    "ac_after": None, "ac_head": None, "ac_init": None, "ac_end": None, "pram": "attention", "beta": 10.0, "exit": "final",
}  # fmt: skip
GATED = {"d_th": 0.1, "gamma": "linear", "gate_epochs": 1, "gb_init": "random", "kernel_size": 3}
EXPERIMENT = {"data": {"name": "digits", "num_classes": 10, "image_size": 8}, "model": "resnet18", "width": 4, "seed": 0}
MASK_CONFIG = {"experiment": EXPERIMENT, "method": "senet", "budget": 10, "recipe": {"epochs": 3}}
FILES = {"results.csv", "results.parquet", "layers.csv", "pareto.csv", "tables.md", "tables.tex", "report.html"}
"""What every report writes."""
_numbers = itertools.count()


def row(**changes):
    costs = {"relus": 100, "macs": 1000, "depth": 16, "params": 10, "val_accuracy": 80.0, "test_accuracy": 79.0}
    return CHOICES | costs | changes


def record_of(of: Stage, rows=(), **changes):
    first = rows[0] if rows and isinstance(rows[0], dict) else {}
    choices = {name: value for name, value in first.items() if name in CHOICES and name not in ("seed", "exit")}
    config = {"experiment": {"seed": first.get("seed", 0)}, "choices": choices}
    plain = {"key": of.key, "stage": of.name, "version": 1, "config": config, "metrics": {}, "history": [], "time_s": 2.0}
    return plain | {"rows": list(rows), "parents": {}, "host": {"workers": 1}} | changes


def commit(root, rows=(), of=None, **changes):
    """A finished stage with these rows; returns its directory."""
    stage = of or toy(number=next(_numbers))
    with Store(root=root).lock() as store:
        store.commit(stage, record_of(stage, rows, **changes), {})
    return store.directory(stage)


def stages(*numbers):
    """A plan of toy stages."""
    return Plan([toy(number=number) for number in numbers])


def finished(root, number, exits=("final",), **columns):
    """A finished stage with a model per exit; returns what writes a measurement beside it."""
    stage = toy(number=number)
    weights = {"bytes": 1, "sha256": f"{number}"}
    with Store(root=root).lock() as store:
        rows = [row(exit=name, budget=number, **columns) for name in exits]
        store.commit(stage, record_of(stage, rows), {"weights.safetensors": weights})

    def measured(time_s, num_bytes, *, exit_name="final", protocol="cheetah", **more):
        known = {"format": FORMAT, "exit": exit_name, "protocol": protocol, "weights": weights}
        content = known | {"time_s": time_s, "bytes": num_bytes, **more}
        (store.directory(stage) / name_of(exit_name, protocol)).write_text(json.dumps(content))

    return measured
