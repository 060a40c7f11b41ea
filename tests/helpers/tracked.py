"""Toy sweeps that tell trackers, and what TensorBoard's files say of them."""

import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event
from toy import HELPERS

from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.planning.plan import Plan
from raysp.store.records import Store

LABELS = {"preset": "toy"}


def run(leaves, root, console, *track, **options):
    options = {"inline": True, **options}
    return run_sweep(leaves, root, [], RunOptions(track=track, **options), labels=LABELS, console=console)


def sweep(*arguments):
    return [sys.executable, str(HELPERS / "toy_cli.py"), "--storage", "run", *arguments]


def events(directory):
    """Scalars by name and step, and texts, of TensorBoard's files in a directory, in the order of the files."""
    scalars, texts = {}, {}
    for path in sorted(directory.glob("events*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif value.tensor.string_val:
                    texts[value.tag] = value.tensor.string_val[0].decode()
    return scalars, texts


def check_tensorboard(directory, root, leaves):
    stages = Plan(leaves).stages.values()
    assert {path.name for path in directory.iterdir()} == {stage.label for stage in stages}
    for stage in stages:
        scalars, texts = events(directory / stage.label)
        record = Store(root=root).read(stage)
        assert [step for step, _ in scalars["loss"]] == [1, 2, 3]
        assert [loss for _, loss in scalars["loss"]] == pytest.approx([epoch["loss"] for epoch in record["history"]])
        assert scalars["final/relus"][0][1] == record["rows"][0]["relus"]
        assert f"| number | {stage.config.number} |" in texts["config/text_summary"]
        assert str(Store(root=root).directory(stage) / "record.json") in texts["raysp/text_summary"]
        for role, parent in stage.parents.items():
            assert f"| raysp.parent.{role} | {parent.label} |" in texts["raysp/text_summary"]
        assert not any(name in scalars for name in ("pid", "timestamp", "training_iteration"))
