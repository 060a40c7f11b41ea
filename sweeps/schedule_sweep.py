"""How should the shallow branches take over? Linear or cosine growth of the gate, from a random or a least-squares start."""

from collections.abc import Sequence

from sweeps.cli import sweep


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse, train, exit; see `sweeps.cli.sweep`."""
    sweep(__doc__ or "", arguments, prog, gamma=("linear", "cosine"), gb_init=("random", "least-squares"), ac_after=((),))


if __name__ == "__main__":
    main()
