"""Function secret sharing with a dealer: each gate's output is opened under a mask, and keys made in advance do the rest.

Online: a gate costs one message, in which each of the two parties sends one ring element for each value that the gate gives
(Boyle, Gilboa and Ishai, TCC 2019; for ReLUs and fixed point Boyle et al., Eurocrypt 2021; the systems LLAMA, Orca and SIGMA
build on it). A linear layer is such a gate, and gives a value at every position, whether a ReLU is kept there or not. So it is 8
bytes from each party for each kept ReLU, and as many for each value that a linear layer gives. Rings are of 64 bits here (ours:
systems choose by the network). The gates that truncate fixed-point numbers are left out: systems do that in several ways. Weights
are masked and opened once for all images, and are not counted.

Offline: the dealer sends each party a key for each ReLU's comparison, of (n - 7) * 129 + 254 bits for n bits (a distributed point
function's key, security parameter 127, its tree cut 7 levels early: SIGMA, PoPETs 2024, theorem 1). That is all that is counted
of a ReLU's key, and nothing of a linear layer's; so it is at least so much.

Neither depends on a machine or link. Seconds are published for whole networks on GPUs, from which no constant for a ReLU follows:
left open.
"""

from raysp.latency.estimates.interface import Counts, Estimate, Estimator

BITS = 64
"""Of a ring element."""
PARTIES = 2
ELEMENT_BYTES = BITS // 8
KEY_BYTES = ((BITS - 7) * 129 + 254) / 8
"""For a comparison, to each party."""


def _estimate(counts: Counts) -> Estimate:
    opened = counts.relus + sum(layer.outputs for layer in counts.linear_layers)
    return Estimate(online_bytes=PARTIES * ELEMENT_BYTES * opened, offline_bytes=PARTIES * KEY_BYTES * counts.relus)


FUNCTION_SECRET_SHARING = Estimator(
    name="function-secret-sharing",
    what="Two parties and a dealer that both trust, who sends keys in advance; online a value costs one message.",
    source="Boyle et al., TCC 2019 and Eurocrypt 2021: a ring element (64 bits here) from each party for each value that a "
    "linear layer or a ReLU gives. Keys: SIGMA, PoPETs 2024, theorem 1, at least 951 bytes a ReLU and party. No seconds.",
    estimate=_estimate,
)
