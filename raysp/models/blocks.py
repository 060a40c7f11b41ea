"""What every part of a stage can do, and the gate that replaces two convolutions by one, gradually.

Owns the gate: output = γ·f_GB(X) + (1 − γ)·f_MB(X), where f_MB are the block's own two convolutions with the inner ReLU between
and f_GB is one CONV-BN ("Making Models Shallow Again", CVPR-W 2023, section 4, gated branching). Refuses to decide
which blocks are gated and how γ grows (`raysp.stages.finetune`, `raysp.training.recipes`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
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


class Block(nn.Module):
    """A part of a stage: one or two convolutions of the main path with what belongs to them."""

    preactivated: ClassVar[bool] = False
    """Whether the first ReLU comes before the convolutions."""
    foldable: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Names of convolutions and of the batch norms directly behind them."""

    def main_path(self) -> list[tuple[str, nn.Conv2d]]:
        """The convolutions that count as depth in the paper's tables, with their names in the block."""
        raise NotImplementedError

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """The block's ReLU layers in forward order.

        Args:
            name: the block's.
            conv_before: the last convolution of the main path before the block.
        """
        raise NotImplementedError


class GatedBlock(Block):
    """A block of two convolutions: the main branch, the shallow branch that can stand in its place, and the gate.

    `gate` is γ ∈ [0, 1]. At 0 and 1 only the branch that counts is computed.

    Args:
        num_in, num_out: channels.
        stride: of the first convolution.
    """

    conv1: nn.Conv2d | None
    conv2: nn.Conv2d | None
    shallow: nn.Sequential | None
    inner_relu: MaskedReLU | None
    _shares: Tensor

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.num_in, self.num_out, self.stride = num_in, num_out, stride
        self.shallow = None
        self.shallow_kernel = 0
        # γ and 1 − γ, and which branches that means: no compiled code depends on the number.
        self.register_buffer("_shares", torch.zeros(2, dtype=torch.float64), persistent=False)
        self.gate = 0.0

    @property
    def gate(self) -> float:
        """γ ∈ [0, 1]."""
        return self._gate

    @gate.setter
    def gate(self, gamma: float) -> None:
        self._gate, self._shallow_only, self._main_only = gamma, gamma == 1.0, gamma == 0.0
        with torch.no_grad():
            self._shares.copy_(torch.tensor((gamma, 1.0 - gamma), dtype=torch.float64))

    @property
    def decided(self) -> str:
        """Which branches are computed."""
        return "main" if self._main_only or self.shallow is None else "shallow" if self._shallow_only else "both"

    def main_path(self) -> list[tuple[str, nn.Conv2d]]:
        """See `Block`: two, or one when only the shallow branch is left."""
        if self.conv1 is not None and self.conv2 is not None:
            return [("conv1", self.conv1), ("conv2", self.conv2)]
        assert self.shallow is not None and isinstance(self.shallow[0], nn.Conv2d)
        return [("shallow.0", self.shallow[0])]

    def main_ends(self) -> tuple[nn.Module, nn.Module]:
        """The main branch's first module, which reads what the shallow branch reads, and its last, whose output the gate
        mixes.
        """
        raise NotImplementedError

    def add_shallow_branch(self, kernel_size: int) -> None:
        """Give the block a CONV-BN in place of its two convolutions, with random weights and the gate at 0.

        Args:
            kernel_size: 3 or 5.
        """
        conv = nn.Conv2d(self.num_in, self.num_out, kernel_size, stride=self.stride, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="linear")
        self.shallow = nn.Sequential(conv, nn.BatchNorm2d(self.num_out))
        self.shallow_kernel = kernel_size

    def drop_main_branch(self) -> None:
        """Remove the two convolutions and the inner ReLU for good; what γ = 1 computes stays."""
        assert self.shallow is not None
        self.conv1 = self.conv2 = self.inner_relu = None
        self.gate = 1.0

    def _branches(self, x_nchw: Tensor) -> Tensor:
        if self._main_only or self.shallow is None:
            return self._main(x_nchw)
        if self._shallow_only:
            return self.shallow(x_nchw)
        return self._shares[0] * self.shallow(x_nchw) + self._shares[1] * self._main(x_nchw)

    def _main(self, x_nchw: Tensor) -> Tensor:
        raise NotImplementedError


class PostActivated(GatedBlock):
    """Two convolutions, each with its batch norm, and a ReLU after each; what is between the last norm and its ReLU differs.

    Args:
        num_in, num_out, stride: see `GatedBlock`.
        size: height and width of the block's output.
    """

    foldable = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, num_in: int, num_out: int, stride: int, size: int) -> None:
        super().__init__(num_in, num_out, stride)
        self.conv1 = conv3x3(num_in, num_out, stride)
        self.bn1: nn.Module | None = nn.BatchNorm2d(num_out)
        self.inner_relu = MaskedReLU((num_out, size, size), inplace=True)
        self.conv2 = conv3x3(num_out, num_out)
        self.bn2: nn.Module | None = nn.BatchNorm2d(num_out)
        self.outer_relu = MaskedReLU((num_out, size, size), inplace=True)

    def _main(self, x_nchw: Tensor) -> Tensor:
        assert self.conv1 is not None and self.bn1 is not None and self.inner_relu is not None
        assert self.conv2 is not None and self.bn2 is not None
        return self.bn2(self.conv2(self.inner_relu(self.bn1(self.conv1(x_nchw)))))

    def main_ends(self) -> tuple[nn.Module, nn.Module]:
        """See `GatedBlock`."""
        assert self.conv1 and self.bn2
        return self.conv1, self.bn2

    def drop_main_branch(self) -> None:
        """See `GatedBlock`."""
        super().drop_main_branch()
        self.bn1 = self.bn2 = None

    def relu_layers(self, name: str, conv_before: nn.Conv2d) -> list[ReLULayer]:
        """Inner, if it is still there, then outer."""
        convs = self.main_path()
        inner = [] if self.inner_relu is None else [ReLULayer(name=f"{name}.inner_relu", relu=self.inner_relu, conv=convs[0][1])]
        return [*inner, ReLULayer(name=f"{name}.outer_relu", relu=self.outer_relu, conv=convs[-1][1])]
