"""SPU's configuration for each protocol (`raysp.latency.protocols`)."""

from typing import Any

KINDS = {"cheetah": "CHEETAH", "semi2k": "SEMI2K"}
"""SPU's names of the protocols that are run on it."""


def runtime_config(protocol: str) -> Any:
    """The engine's configuration: 64-bit fixed point, statistics on."""
    from spu import FieldType, ProtocolKind, RuntimeConfig

    config = RuntimeConfig(protocol=getattr(ProtocolKind, KINDS[protocol]), field=FieldType.FM64)
    config.experimental_enable_colocated_optimization = True
    config.enable_hal_profile = True
    config.enable_pphlo_profile = True
    return config
