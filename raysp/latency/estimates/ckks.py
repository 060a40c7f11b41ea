"""CKKS: all of it on ciphertexts, without the client; cost goes by multiplicative depth.

Source: Lee et al., *Low-Complexity Deep Convolutional Neural Networks on Fully Homomorphic Encryption Using Multiplexed Parallel
Convolutions*, ICML 2022. ReLU is a composition of polynomials there. It uses up 14 levels, a convolution with its batch norm 2;
then bootstrapping, which is most of the time, gives all 16 back. Seconds for one CIFAR-10 image on one thread of a server CPU:
ResNet20 2,271, ResNet110 13,282. The 90 layers between them took 11,011 s, 122 s each, or 7.65 s a level. These two figures are
quoted from memory of its table of latencies: look them up before you rely on a digit. The order of models doesn't depend on them.
No network is involved while it computes.

Ours: a ciphertext has 32,768 slots there, and a larger map takes several, each of which costs as much. Layers on the longest way
count; ReLU layers in parallel branches count all, so that networks with such branches are estimated too high. A layer that keeps
any ReLU costs as much as one that keeps all, because a polynomial is computed in all slots at once. The polynomial approximates
ReLU within an interval, so accuracies may differ from ours. Bytes are left open: those of the keys and ciphertexts depend on
parameters that we have no source for.
"""

import math

from raysp.latency.estimates.interface import Counts, Estimate, Estimator

RELU_LEVELS = 14
LINEAR_LEVELS = 2
SECONDS_PER_LEVEL = (13_282 - 2_271) / (110 - 20) / (RELU_LEVELS + LINEAR_LEVELS)
SLOTS = 2**15


def _estimate(counts: Counts) -> Estimate:
    levels = RELU_LEVELS * sum(_ciphertexts(layer.positions) for layer in counts.relu_layers)
    levels += LINEAR_LEVELS * sum(_ciphertexts(layer.outputs) for layer in counts.linear_layers if layer.is_on_path)
    return Estimate(online_s=levels * SECONDS_PER_LEVEL)


def _ciphertexts(values: int) -> int:
    return max(1, math.ceil(values / SLOTS))


CKKS = Estimator(
    name="ckks",
    what="Homomorphic encryption alone: the client only encrypts and decrypts; ReLU is a polynomial, on all values of a layer.",
    source="Lee et al., ICML 2022: 14 levels a ReLU layer, 2 a convolution; 7.65 s a level, from ResNet20's 2,271 s and "
    "ResNet110's 13,282 s on one thread of a server CPU (quoted from memory; the order doesn't depend on them), no network.",
    estimate=_estimate,
)
