"""The protocols that a network can be run under, and what each of their runs is worth."""

from typing import Literal

Protocol = Literal["cheetah", "semi2k"]

MEANING: dict[str, str] = {
    "cheetah": "real two-party run",
    "semi2k": "online phase, trusted dealer",
}
"""What was run, by protocol: CHEETAH is all of the work of two parties that trust nobody; SEMI2K, as shipped with the engine, has
its correlated randomness made by a dealer that both trust, and its cost left out."""
