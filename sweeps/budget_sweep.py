"""The main sweep: train the whole chain for several ReLU budgets and find the Pareto front.

Every combination of budget, d_th, gamma, AC placement and seed is one configuration; what several of them start from (a seed's
baseline and sensitivity, a budget's mask) is trained once.
"""

from collections.abc import Sequence
from itertools import product

from raysp.chain import ChainBuilder, Choice
from raysp.stage import Stage
from sweeps.cli import Axes, main


def make_stages(builder: ChainBuilder, axes: Axes) -> Sequence[Stage]:
    """One fine-tuning per combination of the axes."""
    combinations = product(axes.budgets, axes.d_th, axes.gamma, axes.ac_after, axes.seeds)
    return [builder.chain(Choice(budget=b, d_th=d, gamma=g, ac_after=a, seed=s)) for b, d, g, a, s in combinations]


if __name__ == "__main__":
    main(make_stages, __doc__ or "")
