"""The protocols that can be estimated, by name."""

from raysp.latency.estimates.ckks import CKKS
from raysp.latency.estimates.function_secret_sharing import FUNCTION_SECRET_SHARING
from raysp.latency.estimates.garbled_circuits import GARBLED_CIRCUITS

ESTIMATORS = {one.name: one for one in (GARBLED_CIRCUITS, FUNCTION_SECRET_SHARING, CKKS)}
