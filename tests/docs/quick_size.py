"""A command of the documentation in quick size: `quick_size.py python|raysp ARGUMENTS`.

Sweeps get the smallest network and few epochs, and run without Ray; all else runs as it was written.
"""

import os
import sys
from itertools import pairwise
from pathlib import Path

TINY = {"--width": ["4"], "--epochs-scale": ["0.1"]}
BUDGETS = ["--budgets", "0.2"]
ONCE = ("paper", "paper.py")


def quick(arguments):
    """The arguments of a sweep at its smallest."""
    kept, skipping = [], False
    for argument in arguments:
        if argument.startswith("--"):
            skipping = argument in TINY
        if not skipping:
            kept.append(argument)
    own = any(before == "--model" and ":" in word for before, word in pairwise(arguments))
    small = [word for flag, value in TINY.items() if not (own and flag == "--width") for word in (flag, *value)]
    if "--budgets" not in kept and not any(Path(word).name in ONCE for word in kept):
        small += BUDGETS
    return [*kept, *small, *([] if "--address" in kept else ["--inline"])]


def command(name, arguments):
    """What is to be executed."""
    script = Path(arguments[0]).name if arguments else ""
    if name == "python":
        is_sweep = script.endswith("_sweep.py") or script == "paper.py"
        return [sys.executable, arguments[0], *quick(arguments[1:])] if is_sweep else [sys.executable, *arguments]
    is_sweep = arguments[:1] == ["sweep"] and len(arguments) > 1
    return [sys.executable, "-m", "raysp", *(arguments[:2] + quick(arguments[2:]) if is_sweep else arguments)]


if __name__ == "__main__":
    whole = command(sys.argv[1], sys.argv[2:])
    os.execv(whole[0], whole)
