"""A process that `raysp.engine.packing.crowd` starts, to choose a stage or to train it.

    python -m raysp.engine.packing.member DIRECTORY scout|member

Owns what of a stage is trained, and for how long. Contract: ends when nobody holds its input open any more; says nothing on its
output but lines of JSON.
"""

import json
import os
import pickle
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raysp.data.config import DataConfig
from raysp.data.sources import Splits
from raysp.engine.calibration import kind_of, random_images, shortened
from raysp.engine.context import Place
from raysp.engine.job import StageError, run_job
from raysp.engine.packing.crowd import CHOSEN, TRIAL, Trial
from raysp.planning.plan import Plan
from raysp.store.keys import key_of
from raysp.store.records import Store
from raysp.store.stage import Stage

STEPS = 16
"""Of an epoch that is watched."""
EVALUATED = 512
"""Images of its validation part, at least: as many as are evaluated at once."""
WARM_UP = 2
"""Epochs before any is watched: the first has closed gates, in the second all is there that is made when it is first needed."""
ENDLESS = 10**6
"""Epochs of a stage that is trained until it has been watched for long enough."""
SCOUT_S = 15.0
"""Seconds after which the scout tries no further kind of stage."""
CONTEXT = 600 << 20
"""Bytes that a process takes of a GPU before it computes anything, about."""


class _Forgetful(Store):
    """A root from which ancestors are read, and in which nothing is kept: saving is no part of what is measured."""

    def save_checkpoint(self, stage: Stage, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Don't."""

    def write_error(self, stage: Stage, text: str) -> None:
        """Don't."""


class Member:
    """This process.

    Args:
        scratch: directory of what all of them share.
        trial: what is measured.
        output: file descriptor of what is said.
    """

    def __init__(self, scratch: Path, trial: Trial, output: int) -> None:
        self._scratch, self._trial, self._output = scratch, trial, output
        self._since = self._watched = 0.0

    def scout(self) -> None:
        """Try every kind of stage, those with the longest chains first, and leave the one that takes most memory; of equal ones
        the slowest.
        """
        kinds: dict[str, Stage] = {}
        for stage in sorted(self._trial.stages, key=lambda stage: -sum(1 for _ in stage.lineage())):
            if stage.epochs:  # what trains nothing takes the memory of an evaluation, and is soon over
                kinds.setdefault(kind_of(stage), stage)
        free = self._free()
        shorts = [shortened(stage, sys.maxsize, {}) for stage in kinds.values()]
        wanted = dict(zip((short.key for short in shorts), kinds.values(), strict=True))
        cost: dict[str, tuple[int, float]] = {}
        ends = time.monotonic() + SCOUT_S
        with Store(root=self._scratch / "root").lock() as store:
            for short in Plan(shorts).stages.values():
                if cost and time.monotonic() > ends:
                    break
                if self._trial.gpus:
                    torch.cuda.reset_peak_memory_stats()
                begun = time.monotonic()
                run_job(
                    short,
                    self._place(store, short, _recipe(short).batch_size if short.epochs else EVALUATED),
                    lambda figures: None,
                )
                if short.key in wanted:
                    taken = torch.cuda.max_memory_allocated() if self._trial.gpus else 0
                    cost[short.key] = taken, time.monotonic() - begun
        with (self._scratch / CHOSEN).open("wb") as file:
            pickle.dump(shortened(wanted[max(cost, key=lambda key: cost[key])], sys.maxsize, {}, ENDLESS), file)
        self._say(free=None if free is None else free + CONTEXT)

    def train(self) -> None:
        """Train what the scout has left, when told to, and be watched, when told to."""
        self._say(started=True)
        self._wait()
        with (self._scratch / CHOSEN).open("rb") as file:
            stage: Stage = pickle.load(file)  # noqa: S301 (our own)
        recipe = _recipe(stage)
        place = self._place(_Forgetful(root=self._scratch / "root"), stage, STEPS * recipe.batch_size)
        data: DataConfig = stage.config.experiment.data  # type: ignore[attr-defined]
        images = data.channels * data.image_size**2
        unseen = images * (sum(self._trial.sizes[key_of(data)].values()) - sum(map(len, _parts(place.splits[key_of(data)]))))
        run_job(stage, place, lambda figures: self._after(figures["epoch"], unseen))

    def _after(self, epoch: int, unseen: int) -> None:
        """Count an epoch, or hold the training back.

        Args:
            epoch: from 1.
            unseen: bytes of the data set that a stage has on its GPU and this one hasn't.
        """
        now = time.monotonic()
        if epoch < WARM_UP:
            return
        self._watched += 1
        if epoch == WARM_UP:
            self._say(free=self._free(), data=unseen)
        elif now - self._since < self._trial.seconds:
            return
        else:
            self._say(rate=self._watched / (now - self._since))
        self._wait()
        self._since, self._watched = time.monotonic(), 0

    def _place(self, store: Store, stage: Stage, images: int) -> Place:
        """With so many random images to train on, where the data set has as many."""
        data: DataConfig = stage.config.experiment.data  # type: ignore[attr-defined]
        whole = self._trial.sizes[key_of(data)]
        train = min(images, whole["train"])
        val = min(whole["val"], max(EVALUATED, round(whole["val"] * train / whole["train"])))
        return Place(
            store=store,
            num_threads=self._trial.num_threads,
            gpus=self._trial.gpus,
            cuda_graph=self._trial.cuda_graph,
            splits={key_of(data): random_images(data, {"train": train, "val": val, "test": 1})},
        )

    def _free(self) -> int | None:
        """Bytes of the GPU that nobody has taken."""
        return torch.cuda.mem_get_info()[0] if self._trial.gpus else None

    def _say(self, **what: Any) -> None:
        os.write(self._output, (json.dumps(what) + "\n").encode())

    def _wait(self) -> None:
        """For a word; where none can come any more, this process ends."""
        if not sys.stdin.readline():
            os._exit(0)


def _recipe(stage: Stage) -> Any:
    return stage.config.recipe  # type: ignore[attr-defined]


def _parts(splits: Splits) -> tuple[Any, ...]:
    return splits.train, splits.val, splits.test


def main() -> None:
    """Do what the role asks for."""
    output = os.dup(1)
    os.dup2(2, 1)  # what others print is no line of ours
    scratch = Path(sys.argv[1])
    with (scratch / TRIAL).open("rb") as file:
        member = Member(scratch, pickle.load(file), output)  # noqa: S301 (our own)
    try:
        member.scout() if sys.argv[2] == "scout" else member.train()
    except StageError as error:
        cause = error.__cause__ or error
        sys.exit(f"{type(cause).__name__}: {cause}".partition("\n")[0])


if __name__ == "__main__":
    main()
