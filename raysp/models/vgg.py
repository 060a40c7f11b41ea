"""VGG's parts: a pair of convolutions at one resolution, which can be gated, and a single one, which can't.

A stage with stride begins with a 2x2 *average* pool. The original's maximum would cost three comparisons per output under private
inference, each as dear as a ReLU, and no ReLU count would show them.
"""

from torch import Tensor, nn

from raysp.models.blocks import Block, PostActivated, ReLULayer, conv3x3
from raysp.models.relu import MaskedReLU


class PairBlock(PostActivated):
    """Conv-BN-ReLU-conv-BN-ReLU behind a pool, if there is one; no skip.

    Args:
        num_in, num_out: channels.
        stride: 2 for a 2x2 average pool in front, else 1.
        size: height and width of the block's output.
    """

    def __init__(self, num_in: int, num_out: int, stride: int, size: int) -> None:
        super().__init__(num_in, num_out, 1, size)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        return self.outer_relu(self._branches(self.pool(x_nchw)))


class SingleBlock(Block):
    """Conv-BN-ReLU: the odd convolution of a stage. It can't become shallower.

    Args:
        num_in, num_out: channels.
        size: height and width of the block's output.
    """

    foldable = (("conv", "bn"),)

    def __init__(self, num_in: int, num_out: int, size: int) -> None:
        super().__init__()
        self.conv = conv3x3(num_in, num_out)
        self.bn: nn.Module = nn.BatchNorm2d(num_out)
        self.relu = MaskedReLU((num_out, size, size), inplace=True)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h, w)."""
        return self.relu(self.bn(self.conv(x_nchw)))

    def main_path(self) -> list[tuple[str, nn.Conv2d]]:
        """See `Block`."""
        return [("conv", self.conv)]

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """Its one."""
        return [ReLULayer(name=f"{name}.relu", relu=self.relu, conv=self.conv)]
