"""How a network's weights lie in memory, which changes nothing of what it computes."""

import torch
from torch import nn

from raysp.models.network import Network


def channels_last(network: Network) -> Network:
    """Lay a network's weights out in the order in which convolutions compute fastest; returns it. Values stay."""
    network.to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        if parameter.dim() == 4 and parameter.shape[2:] == (1, 1):
            # The same memory in either layout. Its gradient says channels last, and DDP compares what is said.
            channels = parameter.shape[1]
            parameter.data = parameter.data.as_strided(parameter.shape, (channels, 1, channels, channels))
    return network


def hold_in_bfloat16(network: Network) -> None:
    """Hold the weights of a frozen network's convolutions and products in what autocast would cast them to for every batch."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
