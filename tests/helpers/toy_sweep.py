"""A toy sweep as a program of its own, to be killed: `python toy_sweep.py ROOT|URL [inline]`."""

import sys

from rich.console import Console
from toy import diamond

from analysis.report import write_report
from raysp.engine.options import RunOptions
from raysp.engine.sweep import run_sweep
from raysp.store.location import locate

if __name__ == "__main__":
    root = locate(sys.argv[1])
    inline = "inline" in sys.argv
    options = RunOptions(inline=inline, gpus_per_stage=0, address=None if inline else "local", max_concurrent=2)
    outcome = run_sweep(diamond(epochs=6), root, [], options, labels={"preset": "toy"}, console=Console())
    write_report([root], root)
    sys.exit(0 if outcome.ok else 1)
