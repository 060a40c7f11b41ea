"""Which ReLUs should stay? Learned masks against each other and against chance, fine-tuned without gated branching."""

from collections.abc import Sequence

from sweeps.cli import sweep

METHODS = ("taylor", "snl", "counterfactual", "senet", "random")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parse, train, exit; see `sweeps.cli.sweep`."""
    sweep(__doc__ or "", arguments, prog, mask_method=METHODS, d_th=(None,), ac_after=((),))


if __name__ == "__main__":
    main()
