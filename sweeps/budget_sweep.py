"""The main sweep: train the whole chain for several ReLU budgets and find the Pareto front.

Every combination of the flags' values is one configuration; what several of them start from (a seed's baseline and ranking, or
its sensitivity and a budget's mask) is trained once.
"""

from collections.abc import Sequence

from sweeps.cli import sweep


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse, train, exit; see `sweeps.cli.sweep`."""
    sweep(__doc__ or "", arguments, prog)


if __name__ == "__main__":
    main()
