"""How a network's weights lie in memory, which changes no value."""

import torch

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
