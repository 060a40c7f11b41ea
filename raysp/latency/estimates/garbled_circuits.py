"""DELPHI: ReLUs in garbled circuits, everything linear on secret shares that homomorphic encryption prepared.

Constants are those of `raysp.models.costs`, from which the columns `est_delphi_...` come too. Bytes (19,088 offline and 1,184
online for a ReLU) are what DELPHI (Mishra et al., USENIX Security 2020) reports for a single ReLU. Seconds (online 21.82 us for a
ReLU, 0.78 ns for a MAC) are published figures of DELPHI's implementation for ResNet18 at 32x32, two processes on one EPYC 7502,
mean of ten runs; we don't know the number of their table. On one machine the network costs nothing, which stands for a LAN. The
homomorphic ciphertexts' bytes, offline, are not published with them, and are left out.
"""

from raysp.latency.estimates.interface import Counts, Estimate, Estimator
from raysp.models.costs import estimate_delphi


def _estimate(counts: Counts) -> Estimate:
    told = estimate_delphi(counts.relus, counts.macs, len(counts.relu_layers))
    return Estimate(
        online_s=told["est_delphi_online_lan_s"],
        online_bytes=told["est_delphi_online_bytes"],
        offline_bytes=told["est_delphi_offline_bytes"],
    )


GARBLED_CIRCUITS = Estimator(
    name="garbled-circuits",
    what="DELPHI: two parties; each ReLU is a garbled circuit, made and sent before the image is there.",
    source="DELPHI, USENIX Security 2020: bytes for one ReLU, 19,088 offline and 1,184 online. Seconds as published for its "
    "implementation, two processes on one EPYC 7502: 21.82 us a ReLU, 0.78 ns a MAC, no network.",
    estimate=_estimate,
)
