"""The protocols that a model can be measured under, and what each of their runs is worth.

Needs no extra but to make an engine's configuration.
"""

from typing import Any, Literal

Protocol = Literal["cheetah", "semi2k"]

MEANING: dict[str, str] = {
    "cheetah": "real two-party run",
    "semi2k": "online phase, trusted dealer",
}
"""What was run, by protocol: CHEETAH is all of the work of two parties that trust nobody; SEMI2K, as shipped with the engine, has
its correlated randomness made by a dealer that both trust, and its cost left out."""


def runtime_config(protocol: str) -> Any:
    """The engine's configuration: 64-bit fixed point, statistics on. Needs the extra `pi`."""
    from spu import FieldType, ProtocolKind, RuntimeConfig

    kinds = {"cheetah": ProtocolKind.CHEETAH, "semi2k": ProtocolKind.SEMI2K}
    config = RuntimeConfig(protocol=kinds[protocol], field=FieldType.FM64)
    config.experimental_enable_colocated_optimization = True
    config.enable_hal_profile = True
    config.enable_pphlo_profile = True
    return config
