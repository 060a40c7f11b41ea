"""How a network's weights lie in memory, which changes no value, and what of a GPU its products may use."""

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


def use_tensor_cores() -> None:
    """Let this process's float32 convolutions and products on GPUs be TF32: factors of 10 bits, sums of 23."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
