"""Residual blocks: ResNet's and Wide ResNet's. The skip path stays as it is, whatever the gate does."""

from torch import Tensor, nn

from raysp.models.blocks import GatedBlock, PostActivated, ReLULayer, conv3x3
from raysp.models.relu import MaskedReLU


class BasicBlock(PostActivated):
    """ResNet's block: conv-BN-ReLU-conv-BN, plus the skip, ReLU.

    Args:
        num_in, num_out: channels.
        stride: of the first convolution and the shortcut.
        size: height and width of the block's output.
    """

    def __init__(self, num_in: int, num_out: int, stride: int, size: int) -> None:
        super().__init__(num_in, num_out, stride, size)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            projection = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(num_out))

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        return self.outer_relu(self._branches(x_nchw).add_(self.shortcut(x_nchw)))


class WideBlock(GatedBlock):
    """Wide ResNet's block (arXiv 1605.07146), pre-activated: BN-ReLU-conv-BN-ReLU-conv, plus the skip.

    Args:
        num_in, num_out: channels.
        stride: of the first convolution and the shortcut.
        size: height and width of the block's output.
    """

    preactivated = True
    foldable = (("conv1", "bn1"),)

    def __init__(self, num_in: int, num_out: int, stride: int, size: int) -> None:
        super().__init__(num_in, num_out, stride)
        self.bn0 = nn.BatchNorm2d(num_in)
        self.outer_relu = MaskedReLU((num_in, size * stride, size * stride), inplace=True)
        self.conv1 = conv3x3(num_in, num_out, stride)
        self.bn1: nn.Module | None = nn.BatchNorm2d(num_out)
        self.inner_relu = MaskedReLU((num_out, size, size), inplace=True)
        self.conv2 = conv3x3(num_out, num_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        return self.after(x_nchw, self.activate(x_nchw))

    def activate(self, x_nchw: Tensor) -> Tensor:
        """The block's first batch norm and ReLU: the post-ReLU map of whatever comes before it."""
        return self.outer_relu(self.bn0(x_nchw))

    def after(self, x_nchw: Tensor, active: Tensor) -> Tensor:
        """The rest of the block, from its input and the activated input."""
        # A block that changes shape takes its skip from the activated map, others from their input, as in the original.
        skip = x_nchw if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        return self._branches(active).add_(skip)

    def _main(self, x_nchw: Tensor) -> Tensor:
        assert self.conv1 is not None and self.bn1 is not None
        assert self.inner_relu is not None and self.conv2 is not None
        return self.conv2(self.inner_relu(self.bn1(self.conv1(x_nchw))))

    def main_ends(self) -> tuple[nn.Module, nn.Module]:
        """See `GatedBlock`."""
        assert self.conv1 and self.conv2
        return self.conv1, self.conv2

    def drop_main_branch(self) -> None:
        """See `GatedBlock`."""
        super().drop_main_branch()
        self.bn1 = None

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """The block's first ReLU, fed by the convolution before the block, then the inner one, if it is still there."""
        outer = ReLULayer(name=f"{name}.outer_relu", relu=self.outer_relu, conv=conv_before)
        if self.inner_relu is None:
            return [outer]
        return [outer, ReLULayer(name=f"{name}.inner_relu", relu=self.inner_relu, conv=self.main_path()[0][1])]
