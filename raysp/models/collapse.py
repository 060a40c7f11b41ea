"""The network as it would be deployed: main branches of gated blocks, and all that lies after an exit, physically gone."""

import copy
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from raysp.models.exits import FINAL, stage_of
from raysp.models.network import Network


def collapse(model: Network, exit: str = FINAL) -> Network:  # noqa: A002 (the field's word)
    """Return a plain copy of a network for one of its exits; its outputs are the gated network's at γ = 1.

    Args:
        model: left as it is.
        exit: "final", or "ac3" for the auxiliary classifier after stage 3 and so on.

    Raises:
        ValueError: the model has no such exit.
    """
    if exit not in model.heads:
        raise ValueError(f"no exit {exit!r}; the model has {', '.join(model.heads)}: name one of them as exit")
    plain = drop_main_branches(model)
    for name in list(plain.heads):
        if name != exit:
            del plain.heads[name]
            plain.ac_heads.pop(name, None)
    if exit != FINAL:
        plain.stages = plain.stages[: stage_of(exit)]
    return plain


def drop_main_branches(model: Network) -> Network:
    """Return a copy of a network, in evaluation mode, whose gated blocks have only their shallow branch; all exits stay."""
    plain = copy.deepcopy(model).eval()
    for _, block in plain.gated_blocks():
        if block.shallow is not None:
            block.drop_main_branch()
    return plain


def fold_batchnorm(model: Network) -> Network:
    """Return a copy of a network, in evaluation mode, with every batch norm that directly follows a convolution folded into it.

    Outputs stay the same to float rounding. A pre-activated network keeps those that follow an addition: the ReLU behind them
    stands between them and the next convolution.

    Args:
        model: left as it is; usually a collapsed one.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        pairs = list(getattr(module, "foldable", ()))
        if isinstance(module, nn.Sequential):
            pairs += [(str(i), str(i + 1)) for i in range(len(module) - 1)]
        for conv_name, norm_name in pairs:
            conv, norm = module._modules.get(conv_name), module._modules.get(norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[conv_name] = fuse_conv_bn_eval(conv, norm)
                module._modules[norm_name] = nn.Identity()
    folded.folded = True
    return folded


class Logits(nn.Module):
    """A collapsed network, of one exit, as a function from images to logits."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        (self.exit,) = model.heads

    def forward(self, image: Tensor) -> Tensor:
        """Logits, (n, classes), of images (n, channels, height, width)."""
        return cast(Tensor, self.model(image).logits[self.exit])
