"""The main sweep: train the whole chain for several ReLU budgets and find the Pareto front.

Every combination of the flags' values is one configuration; what several of them start from (a seed's baseline and sensitivity, a
budget's mask) is trained once.
"""

from sweeps.axes import sweep

if __name__ == "__main__":
    sweep(__doc__ or "")
