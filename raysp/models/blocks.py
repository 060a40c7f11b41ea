"""Residual blocks whose two convolutions can be replaced by one, gradually.

Owns the gate: output = γ·f_GB(X) + (1 − γ)·f_MB(X), where f_MB are the block's own two convolutions with the inner ReLU between
and f_GB is one CONV-BN ("Making Models Shallow Again", CVPR-W 2023, section 4, gated branching). Refuses to decide
which blocks are gated and how γ grows (`raysp.stages.finetune`, `raysp.schedules`).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from raysp.models.relu import MaskedReLU


@dataclass(frozen=True, kw_only=True)
class ReLULayer:
    """A ReLU layer of a network and the convolution that feeds it."""

    name: str
    relu: MaskedReLU
    conv: nn.Conv2d
    """The convolution before it on the main path; its share of non-zero weights is η_θ of equation 1."""


def conv3x3(num_in: int, num_out: int, stride: int = 1) -> nn.Conv2d:
    """A padded 3x3 convolution without bias."""
    return nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)


class GatedBlock(nn.Module):
    """What both kinds of block share: the skip path, the two-convolution main branch, the shallow branch and its gate.

    `gate` is γ ∈ [0, 1]. At 0 and 1 only the branch that counts is computed.
    """

    preactivated = False
    """Whether the block's first ReLU comes before its convolutions."""
    conv1: nn.Conv2d | None
    conv2: nn.Conv2d | None
    shallow: nn.Sequential | None
    inner_relu: MaskedReLU | None

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.num_in, self.num_out, self.stride = num_in, num_out, stride
        self.shallow = None
        self.gate = 0.0

    @property
    def depth(self) -> int:
        """Convolutions on the main path, as the paper's tables count: 2, or 1 when only the shallow branch is left."""
        return 2 if self.conv1 is not None else 1

    def add_shallow_branch(self, kernel_size: int) -> None:
        """Give the block a CONV-BN in place of its two convolutions, with random weights and the gate at 0.

        Args:
            kernel_size: 3 or 5.
        """
        conv = nn.Conv2d(self.num_in, self.num_out, kernel_size, stride=self.stride, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="linear")
        self.shallow = nn.Sequential(conv, nn.BatchNorm2d(self.num_out))

    def drop_main_branch(self) -> None:
        """Remove the two convolutions and the inner ReLU for good; what γ = 1 computes stays."""
        assert self.shallow is not None
        self.conv1 = self.conv2 = self.inner_relu = None
        self.gate = 1.0

    def _branches(self, x_nchw: Tensor) -> Tensor:
        if self.gate == 0.0 or self.shallow is None:
            return self._main(x_nchw)
        if self.gate == 1.0:
            return self.shallow(x_nchw)
        return self.gate * self.shallow(x_nchw) + (1.0 - self.gate) * self._main(x_nchw)

    def _main(self, x_nchw: Tensor) -> Tensor:
        raise NotImplementedError

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """The block's ReLU layers in forward order, while it still has its main branch."""
        raise NotImplementedError


class BasicBlock(GatedBlock):
    """ResNet's block: conv-BN-ReLU-conv-BN, plus the skip, ReLU.

    Args:
        num_in, num_out: channels.
        stride: of the first convolution and the shortcut.
        size: height and width of the block's output.
    """

    def __init__(self, num_in: int, num_out: int, stride: int, size: int) -> None:
        super().__init__(num_in, num_out, stride)
        self.conv1 = conv3x3(num_in, num_out, stride)
        self.bn1: nn.BatchNorm2d | None = nn.BatchNorm2d(num_out)
        self.inner_relu = MaskedReLU((num_out, size, size))
        self.conv2 = conv3x3(num_out, num_out)
        self.bn2: nn.BatchNorm2d | None = nn.BatchNorm2d(num_out)
        self.outer_relu = MaskedReLU((num_out, size, size))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            projection = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(num_out))

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        return self.outer_relu(self._branches(x_nchw) + self.shortcut(x_nchw))

    def _main(self, x_nchw: Tensor) -> Tensor:
        assert self.conv1 and self.bn1 and self.inner_relu and self.conv2 and self.bn2
        return self.bn2(self.conv2(self.inner_relu(self.bn1(self.conv1(x_nchw)))))

    def drop_main_branch(self) -> None:
        """See `GatedBlock`."""
        super().drop_main_branch()
        self.bn1 = self.bn2 = None

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """Inner, then outer."""
        assert self.inner_relu and self.conv1 and self.conv2
        return [
            ReLULayer(name=f"{name}.inner_relu", relu=self.inner_relu, conv=self.conv1),
            ReLULayer(name=f"{name}.outer_relu", relu=self.outer_relu, conv=self.conv2),
        ]


class WideBlock(GatedBlock):
    """Wide ResNet's block (arXiv 1605.07146), pre-activated: BN-ReLU-conv-BN-ReLU-conv, plus the skip.

    Args:
        num_in, num_out: channels.
        stride: of the first convolution and the shortcut.
        size: height and width of the block's output.
    """

    preactivated = True

    def __init__(self, num_in: int, num_out: int, stride: int, size: int) -> None:
        super().__init__(num_in, num_out, stride)
        self.bn0 = nn.BatchNorm2d(num_in)
        self.outer_relu = MaskedReLU((num_in, size * stride, size * stride))
        self.conv1 = conv3x3(num_in, num_out, stride)
        self.bn1: nn.BatchNorm2d | None = nn.BatchNorm2d(num_out)
        self.inner_relu = MaskedReLU((num_out, size, size))
        self.conv2 = conv3x3(num_out, num_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map (n, num_in, h, w) to (n, num_out, h/stride, w/stride)."""
        active = self.outer_relu(self.bn0(x_nchw))
        # A block that changes shape takes its skip from the activated map, others from their input, as in the original.
        skip = x_nchw if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        return self._branches(active) + skip

    def _main(self, x_nchw: Tensor) -> Tensor:
        assert self.conv1 and self.bn1 and self.inner_relu and self.conv2
        return self.conv2(self.inner_relu(self.bn1(self.conv1(x_nchw))))

    def drop_main_branch(self) -> None:
        """See `GatedBlock`."""
        super().drop_main_branch()
        self.bn1 = None

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """The block's first ReLU, fed by the convolution before the block, then the inner one."""
        assert self.inner_relu and self.conv1
        return [
            ReLULayer(name=f"{name}.outer_relu", relu=self.outer_relu, conv=conv_before),
            ReLULayer(name=f"{name}.inner_relu", relu=self.inner_relu, conv=self.conv1),
        ]
