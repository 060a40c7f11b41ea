"""Trains one case of `parallel.py` in this process, slowly, and handles SIGTERM: `terminated.py ROOT CASE [to the end]`."""

import sys
import time
from pathlib import Path

import parallel
import torch

from raysp.engine.job import run_job
from raysp.engine.termination import Terminated, install
from raysp.store.records import Store
from raysp.training.batches import Batches

torch.set_num_threads(1)
install()
make = Batches.picks


def slowly(self, batch_size, seed, epoch, workers, first):
    for step, pick in enumerate(make(self, batch_size, seed, epoch, workers, first), start=first + 1):
        print(f"step {step} of epoch {epoch}", flush=True)
        time.sleep(0 if len(sys.argv) > 3 else 0.05)
        yield pick


Batches.picks = slowly
try:
    with Store(root=Path(sys.argv[1])).lock() as store:
        run_job(parallel.stage(sys.argv[2]), parallel.place_for(store), lambda figures: None)
except Terminated:
    sys.exit(143)
