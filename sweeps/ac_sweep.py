"""Where can the network be cut off? Auxiliary classifiers after one stage or another, each alone and both in one model."""

from sweeps.axes import sweep

if __name__ == "__main__":
    sweep(__doc__ or "", ac_after=((), (2,), (3,), (2, 3)))
