"""The engine's configuration for each protocol (`raysp.latency.protocols`). Needs the extra `pi`."""

from typing import Any


def runtime_config(protocol: str) -> Any:
    """The engine's configuration: 64-bit fixed point, statistics on."""
    from spu import FieldType, ProtocolKind, RuntimeConfig

    kinds = {"cheetah": ProtocolKind.CHEETAH, "semi2k": ProtocolKind.SEMI2K}
    config = RuntimeConfig(protocol=kinds[protocol], field=FieldType.FM64)
    config.experimental_enable_colocated_optimization = True
    config.enable_hal_profile = True
    config.enable_pphlo_profile = True
    return config
