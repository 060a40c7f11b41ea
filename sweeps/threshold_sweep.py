"""How shallow? Thresholds d_th of gated branching, from none to bold.

The masks are the same for all: each block is replaced whose inner ReLU keeps at most that share of its positions.
"""

from sweeps.axes import sweep

if __name__ == "__main__":
    sweep(__doc__ or "", d_th=(None, 0.02, 0.05, 0.1, 0.2), ac_after=((),))
