"""Measured private inference: a trained network run under real two-party computation, and what that costs.

What an engine must give is said by `raysp.pi.engine`; the one that is used is `raysp.pi.secretflow`, which needs the extra `pi`.
All else works without it. What was measured lies beside a model's record (`raysp.pi.files`). What networks will cost that nobody
ran is said by `raysp.latency`.
"""

from typing import TYPE_CHECKING

from raysp.lazy import attach

__all__ = [
    "MEANING",
    "MeasureOptions",
    "MeasuredFile",
    "PartyFault",
    "Protocol",
    "calibrate",
    "measure",
    "predict",
    "read_calibrations",
    "read_measurements",
    "require_engine",
]

if TYPE_CHECKING:
    from raysp.latency.known import read_calibrations
    from raysp.latency.prediction import predict
    from raysp.latency.protocols import MEANING, Protocol
    from raysp.pi.calibration import calibrate
    from raysp.pi.engine import require_engine
    from raysp.pi.files import MeasuredFile, read_measurements
    from raysp.pi.measurement import MeasureOptions, measure
    from raysp.pi.session import PartyFault
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "MEANING": "raysp.latency.protocols",
            "MeasureOptions": "raysp.pi.measurement",
            "MeasuredFile": "raysp.pi.files",
            "PartyFault": "raysp.pi.session",
            "Protocol": "raysp.latency.protocols",
            "calibrate": "raysp.pi.calibration",
            "measure": "raysp.pi.measurement",
            "predict": "raysp.latency.prediction",
            "read_calibrations": "raysp.latency.known",
            "read_measurements": "raysp.pi.files",
            "require_engine": "raysp.pi.engine",
        },
    )
