"""Where can the network be cut off? Auxiliary classifiers after one stage or another, each alone and both in one model."""

from collections.abc import Sequence

from sweeps.cli import sweep


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse, train, exit; see `sweeps.cli.sweep`."""
    sweep(__doc__ or "", arguments, prog, ac_after=((), (2,), (3,), (2, 3)))


if __name__ == "__main__":
    main()
