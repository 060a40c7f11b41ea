"""How shallow? Thresholds d_th of gated branching, from none to bold.

The masks are the same for all: each block is replaced whose inner ReLU keeps at most that share of its positions.
"""

from collections.abc import Sequence

from sweeps.cli import sweep


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse, train, exit; see `sweeps.cli.sweep`."""
    sweep(__doc__ or "", arguments, prog, d_th=(None, 0.02, 0.05, 0.1, 0.2), ac_after=((),))


if __name__ == "__main__":
    main()
