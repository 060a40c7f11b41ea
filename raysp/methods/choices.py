"""What a user chooses of the method: the closed sets of names, one configuration of a sweep, and the numbers of SNL's search.

Owns the names that flags, configurations and tables share. Refuses to import what computes, so that a command line can be parsed
without it. What a name does is said by the module that does it.
"""

from dataclasses import dataclass
from typing import Literal

from raysp.store.keys import Config
from raysp.training.recipes import GammaSchedule

OwnMaskMethod = Literal["senet", "counterfactual", "snl", "random"]
"""How a mask is found by a mask stage of its own, for one budget."""
RankingMethod = Literal["taylor", "frozen", "snl-walk"]
"""How a ranking is found, from which the masks of all budgets follow."""
MaskMethod = Literal[OwnMaskMethod, RankingMethod]
"""How a mask is found."""
SHARING_METHODS: tuple[MaskMethod, ...] = ("senet", "counterfactual", "random")
"""Methods that share a budget out over layers by their sensitivities; the others choose over the whole network at once."""
Weights = Literal["continue", "rewind"]
"""Where the fine-tuning's weights start: those that the mask stage ended with, or the all-ReLU network's."""
MaskStart = Literal["teacher", "scratch"]
"""A student's weights when its mask is first learned: the all-ReLU network's, or new ones."""
Granularity = Literal["pixel", "channel"]
"""What a mask keeps or drops: single positions (c, h, w), or channels, each all ReLU or all identity."""
GateStart = Literal["random", "least-squares"]
"""How a shallow branch starts."""
AcHead = Literal["pool", "bottleneck", "grid"]
"""What an auxiliary classifier is made of."""
AcStart = Literal["random", "fit"]
"""How an auxiliary classifier starts."""
AcEnd = Literal["trained", "fit"]
"""What an auxiliary classifier is in the end: as it was trained, or fitted anew to the network that it was trained with."""
Pram = Literal["attention", "eq2"]
"""Form of the post-ReLU activation mismatch loss."""
WHICH_GATED = ("d_th", "gate_blocks", "gate_loss", "max_seconds")
"""Fields of `Choice`, and columns of results.csv, of which one at most says which blocks are gated."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One configuration of a sweep. Its defaults are the paper's, but that no block is gated and no auxiliary classifier
    placed.
    """

    budget: float
    """ReLU units, or a share of the network's ReLUs when below 1."""
    density: float = 0.1
    """Of the sparse twin that the sensitivities come from."""
    mask_method: MaskMethod = "senet"
    granularity: Granularity = "pixel"
    mask_start: MaskStart = "teacher"
    weights: Weights | None = None
    """None takes `rewind` where the mask comes from a ranking, else `continue`."""
    depth_price: float = 0.0
    """How readily a ranking empties inner layers, so that their blocks can be gated."""
    layer_price: float = 0.0
    """How readily it empties layers, wherever they are."""
    d_th: float | None = None
    """None gates no block, but for what follows."""
    gate_blocks: int | None = None
    """Instead of a threshold: so many blocks are gated, those that lose least; 0 gates none."""
    gate_loss: float | None = None
    """Or: as many are gated, those that lose least first, as lose at most so many nats in all."""
    max_seconds: float | None = None
    """Or: those blocks are gated that lose least and let the final exit take at most so many predicted seconds."""
    link: str | None = None
    """Over which link, as `raysp.latency.links` reads it; None has both parties on one machine."""
    gamma: GammaSchedule = "linear"
    gate_epochs: int | None = None
    """Epochs until γ is 1, as they are; None takes the preset's, scaled."""
    gb_init: GateStart = "random"
    kernel_size: Literal[3, 5] = 3
    ac_after: tuple[int, ...] = ()
    """Stages after which auxiliary classifiers stand, all in one model."""
    ac_head: AcHead = "pool"
    ac_init: AcStart = "random"
    ac_end: AcEnd = "trained"
    pram: Pram = "attention"
    beta: float | None = None
    """None takes the preset's."""
    seed: int = 0

    @property
    def gates_by_loss(self) -> bool:
        """Whether what blocks would lose decides which are gated."""
        return bool(self.gate_blocks) or self.gate_loss is not None or self.max_seconds is not None


@dataclass(frozen=True, kw_only=True)
class SnlConfig(Config):
    """What the search depends on. The defaults are SNL's.

    Raises:
        ValueError: a field is out of the range that its docstring gives.
    """

    alpha_share: float = 1.0
    """Learning rate of α, as a multiple of the weights', above 0. Adam moves α by about its rate in a step, and α must come from
    1 to 0: short searches need more than the weights' rate."""
    penalty: float = 1e-5
    """λ, the first weight of ‖α‖₁, above 0."""
    growth: float = 1.1
    """What λ is multiplied by after an epoch in which the count has stopped falling, at least 1."""
    threshold: float = 1e-2
    """A position counts as a ReLU while its α is above this, in (0, 1)."""
    stalled: float = 0.002
    """The count has stopped falling when an epoch takes less than this share of all positions away, in [0, 1] (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(
            alpha_share=(self.alpha_share > 0, "above 0"),
            penalty=(self.penalty > 0, "above 0"),
            growth=(self.growth >= 1, "at least 1"),
            threshold=(0 < self.threshold < 1, "between 0 and 1"),
            stalled=(0 <= self.stalled <= 1, "a share from 0 to 1"),
        )
