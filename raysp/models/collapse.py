"""The network as it would be deployed: main branches of gated blocks, and all that lies after an exit, physically gone."""

import copy

from raysp.models.exits import FINAL
from raysp.models.network import Network


def collapse(model: Network, exit: str = FINAL) -> Network:  # noqa: A002 (the field's word)
    """Return a plain copy of a network for one of its exits; its outputs are the gated network's at γ = 1.

    Args:
        model: left as it is.
        exit: "final", or "ac<s>" for the auxiliary classifier after stage s.

    Raises:
        ValueError: the model has no such exit.
    """
    if exit not in model.heads:
        raise ValueError(f"no exit {exit!r}; the model has {', '.join(model.heads)}")
    plain = drop_main_branches(model)
    for name in list(plain.heads):
        if name != exit:
            del plain.heads[name]
    if exit != FINAL:
        plain.stages = plain.stages[: int(exit.removeprefix("ac"))]
    return plain


def drop_main_branches(model: Network) -> Network:
    """Return a copy of a network, in evaluation mode, whose gated blocks have only their shallow branch; all exits stay."""
    plain = copy.deepcopy(model).eval()
    for _, block in plain.blocks():
        if block.shallow is not None:
            block.drop_main_branch()
    return plain
