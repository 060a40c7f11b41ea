"""What must hold for every network that raysp traces, each against something slow and obvious."""

import json

import pytest
import reference
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from raysp.models import network_of
from raysp.models.collapse import collapse, drop_main_branches, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.description import build, describe
from raysp.models.gates import Gate
from raysp.models.graph import FUNCTIONS, IMAGE
from raysp.models.relu import MaskedReLU
from raysp.models.specs import text_of

RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh}
OVERWRITING = {F.relu_, torch.relu_, Tensor.relu_}
SHARES = (0.4, 1.0, 0.7, 0.0, 0.2)
NORMS = nn.BatchNorm2d | nn.BatchNorm1d


class _Masks(TorchFunctionMode):
    """Runs the user's own code, each ReLU as the product with its mask, in the order in which they are called."""

    def __init__(self, masks):
        super().__init__()
        self.masks, self.sizes = None if masks is None else list(masks), []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in RELUS:
            return func(*args, **kwargs)
        x = args[0]
        self.sizes.append(x[0].numel())
        y = torch.relu(x) if self.masks is None else reference.masked_relu(x, self.masks.pop(0).reshape(x.shape[1:]))
        return x.copy_(y) if kwargs.get("inplace") or func in OVERWRITING else y


def slow(plain, x, masks=None):
    """Logits of the user's module with masks in its ReLUs; without any where they are None, ReLU6 taken for ReLU all the same."""
    with _Masks(masks) as mode:
        logits = plain(x)
    assert not mode.masks, "fewer ReLUs are called than there are masks"
    return logits


def walk(network, x, exit_name="final"):
    """Logits of a network, by walking over its nodes one by one; nothing is left out or overwritten."""
    found = {IMAGE: x}
    for node in network.graph.nodes:
        inputs = [found[name] for name in node.inputs]
        module = network.module_at(node.module) if node.module else None
        if isinstance(module, MaskedReLU):
            found[node.name] = reference.masked_relu(inputs[0], module.mask.reshape(inputs[0].shape[1:]))
        elif isinstance(module, Gate):
            found[node.name] = module.gamma * inputs[0] + (1 - module.gamma) * inputs[1]
        else:
            found[node.name] = module(*inputs) if module else FUNCTIONS[node.function](*inputs, *node.options)
    return found[network.graph.exits[exit_name]]


def randomise_norms(module, seed=0):
    """Statistics and affine parameters away from their defaults."""
    torch.manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, NORMS):
            norm.running_mean.normal_(std=0.5)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.5)
    return module


def traced(plain, size, *, classes, share=None, gates=False):
    """The network of a module whose weights are float64.

    Args:
        share: of the ReLUs that are kept; None keeps all, "mixed" gives each layer another share.
        gates: put a gate at every second pair.
    """
    network = network_of(plain, name="theirs", num_classes=classes, image_size=size, relu6=True)
    torch.manual_seed(1)
    for number, layer in enumerate(network.relu_layers() if share else ()):
        kept = SHARES[number % len(SHARES)] if share == "mixed" else share
        layer.relu.set_mask(torch.rand(layer.relu.shape) < kept)
    for number, (_, block) in enumerate(network.gated_blocks()[::2] if gates else ()):
        block.add_shallow_branch((3, 5)[number % 2])
        randomise_norms(block.shallow.double(), seed=number)
    plain.train(network.training)  # tracing left it in evaluation mode
    return network.double().train(network.training)


def images(size, number=4, seed=2):
    return torch.randn(number, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(got, want, tolerance=1e-9):
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.detach().abs().max()))


def masks_of(network):
    return [layer.relu.mask for layer in network.relu_layers()]


def check_all_kept(plain, size, classes):
    """With all ReLUs kept a network is the module, exactly."""
    plain.eval()
    network, x = traced(plain, size, classes=classes), images(size)
    assert not network.training
    with torch.no_grad(), _Masks(None) as mode:
        want = plain(x)
    with torch.no_grad():
        got = network(x).logits["final"]
        if not any(isinstance(module, nn.ReLU6) for module in plain.modules()):
            assert torch.equal(plain(x), want)
    assert torch.equal(got, want)
    assert [layer.relu.size for layer in network.relu_layers()] == mode.sizes


def check_masked(plain, size, classes):
    """With masks it is the module with the product form in its ReLUs' places."""
    plain.eval()
    network, x = traced(plain, size, classes=classes, share="mixed"), images(size)
    with torch.no_grad():
        got, want = network(x).logits["final"], slow(plain, x, masks_of(network))
        close(got, want)
        assert not torch.allclose(got, slow(plain, x))


def check_gates(plain, size, classes):
    """A gated network is what its nodes say at every γ; at 1 it is its collapse."""
    plain.eval()
    network, x = traced(plain, size, classes=classes, share=0.5, gates=True), images(size)
    with torch.no_grad():
        network.set_gates(0.0)
        close(network(x).logits["final"], slow(plain, x, masks_of(network)))
        for gamma in (0.3, 1.0):
            network.set_gates(gamma)
            close(network(x).logits["final"], walk(network, x))
        want = network(x).logits["final"]
        close(collapse(network)(x).logits["final"], want)
        close(drop_main_branches(network)(x).logits["final"], want)
    return len(network.chains)


def check_costs(plain, size, classes):
    """Costs are what hooks see."""
    plain.eval()
    network = traced(plain, size, classes=classes, share=0.5, gates=True)
    costs, small = count_costs(network), collapse(network)
    comparisons = []

    def compared(module, inputs, output):
        size = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
        comparisons.append(output[0].numel() * (size[0] * size[1] - 1))

    for module in small.modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(compared)
    example, small.example_input = small.example_input().double(), lambda: example
    with FlopCounterMode(display=False) as counter:
        relus, macs, params = reference.count_by_hooks(small)
    assert (costs.relus, costs.macs, costs.params) == (relus, macs, params)
    assert costs.macs == counter.get_total_flops() // 2
    assert costs.comparisons == sum(comparisons)


def check_folded(plain, size, classes):
    """Folded batch norms change nothing; those that stay follow no convolution that is called once and read once."""
    plain.eval()
    network, x = traced(plain, size, classes=classes, share=0.5, gates=True), images(size)
    small = collapse(network)
    folded = fold_batchnorm(small)
    with torch.no_grad():
        close(folded(x).logits["final"], small(x).logits["final"])
    readers, modules, calls = folded.graph.readers(), folded.called(), [node.module for node in folded.graph.nodes]
    for node in folded.graph.nodes:
        if isinstance(modules.get(node.module), nn.BatchNorm2d) and node.inputs[0] != IMAGE:
            before = folded.graph[node.inputs[0]]
            could = isinstance(modules.get(before.module), nn.Conv2d) and len(readers[before.name]) == 1
            assert not could or calls.count(before.module) > 1 or calls.count(node.module) > 1


def check_described(plain, size, classes):
    """A network is built again from text, in whatever state it is."""
    plain.eval()
    network, x = traced(plain, size, classes=classes, share="mixed", gates=True), images(size)
    for stage in range(1, network.num_stages)[:1]:
        network.add_exit(stage, "pool")
    network.double().eval()
    network.set_gates(0.3)
    for state in (network, collapse(network), fold_batchnorm(collapse(network, network.exit_names[0]))):
        again = build(json.loads(json.dumps(describe(state)))).double()
        again.load_state_dict(state.state_dict())
        assert text_of(again) == text_of(state)
        with torch.no_grad():
            want, got = state(x), again(x)
        assert want.logits.keys() == got.logits.keys()
        for a, b in zip((*want.logits.values(), *want.features), (*got.logits.values(), *got.features), strict=True):
            assert torch.equal(a, b)


def check_gradients(plain, size, classes):
    """Nothing that a step overwrites is needed by another's gradient."""
    plain.train()
    x, labels = images(size, 3), torch.arange(3)
    kept = traced(plain, size, classes=classes)
    assert kept.training
    _check_gradients(kept, lambda: slow(plain, x), x, labels)
    masked = traced(plain, size, classes=classes, share="mixed")
    _check_gradients(masked, lambda: slow(plain, x, masks_of(masked)), x, labels)
    gated = traced(plain, size, classes=classes, share=0.5, gates=True)
    for gamma in (0.3, 1.0):
        gated.set_gates(gamma)
        _check_gradients(gated, lambda: walk(gated, x), x, labels)
    plain.eval()


def _check_gradients(network, slowly, x, labels):
    found = []
    for compute in (lambda: network(x).logits["final"], slowly):
        torch.manual_seed(3)  # of dropout
        logits = compute()
        loss = F.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        found.append((logits.detach(), gradients))
    (got, of_network), (want, of_reference) = found
    close(got, want)
    largest = max(float(g.abs().max()) for g in of_reference if g is not None)
    for (name, parameter), g, w in zip(network.named_parameters(), of_network, of_reference, strict=True):
        zero = torch.zeros_like(parameter)  # a branch that isn't computed, or one with the share 0
        torch.testing.assert_close(
            zero if g is None else g,
            zero if w is None else w,
            rtol=1e-9,
            atol=1e-10 * largest,
            msg=lambda m, name=name: f"{name}: {m}",
        )


CHECKS = (check_all_kept, check_masked, check_gates, check_costs, check_folded, check_described, check_gradients)
"""Each takes a module in float64, the images' size and the classes."""


def checks():
    return pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("check_") for check in CHECKS])
