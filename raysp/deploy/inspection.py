"""`raysp inspect`: what raysp sees of a network before anything is trained.

Owns the tables and their words. Statuses: 0 shown, 2 bad input or a network that can't be taken.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from tyro.conf import Positional, arg

from raysp.command.terminal import shield

RIGHT = ("ReLUs", "share", "MACs", "depth")
"""Columns of numbers."""

if TYPE_CHECKING:
    from raysp.models.blocks import GatedBlock
    from raysp.models.network import Network


@dataclass(frozen=True, kw_only=True)
class InspectFlags:
    """Show what raysp sees of a network: its ReLUs, what gates can replace, where exits can stand, what it costs."""

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """`resnet18`, `resnet34`, `wrn22-8` or `vgg16`; a network of your own as package.module:function, which lies here or is
    installed; torchvision:NAME or timm:NAME."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = 32
    """Height and width of the images."""
    in_channels: Annotated[int, arg(metavar="CHANNELS")] = 3
    """Channels of the images."""
    num_classes: Annotated[int, arg(metavar="CLASSES")] = 100
    """Classes that are told apart."""
    width: Annotated[int | None, arg(metavar="CHANNELS", help_behavior_hint="(default: the network's)")] = None
    """Channels of a built-in network's first stage."""
    relu6: Annotated[Literal["relu"] | None, arg(metavar="relu", help_behavior_hint="")] = None
    """Take plain ReLUs for a network's ReLU6, which is refused otherwise."""


def main(arguments: Sequence[str] | None = None, prog: str = "raysp inspect") -> None:
    """Parse, show, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    shield()
    flags = tyro.cli(InspectFlags, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    try:
        network = _network(flags)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    show(network, Console(highlight=False, emoji=False))
    sys.exit(0)


def _network(flags: InspectFlags) -> "Network":
    import torch  # takes seconds

    from raysp.models import build_model
    from raysp.models.specs import check_flags, is_builtin, open_network

    for name in ("image_size", "in_channels", "num_classes"):
        if getattr(flags, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(flags, name)}; expected at least 1")
    sizes = {"num_classes": flags.num_classes, "image_size": flags.image_size, "in_channels": flags.in_channels}
    check_flags(flags.model, width=flags.width, relu6=flags.relu6 == "relu")
    if is_builtin(flags.model):
        with torch.device("meta"):
            return build_model(flags.model, width=flags.width, **sizes)
    return open_network(flags.model, relu6=flags.relu6 == "relu", **sizes)


def show(network: "Network", console: Console) -> None:
    """Print what there is to see of a network."""
    from raysp.latency.graph import graph_of
    from raysp.models.collapse import collapse, fold_batchnorm
    from raysp.models.costs import count_costs

    costs, shapes = count_costs(network), network.shapes()
    blocks = {block.chain.inner: block for _, block in network.gated_blocks()}
    stage_of, number = {}, 1
    for node in network.graph.nodes:
        stage_of[node.name] = min(number, network.num_stages)
        number += node.name in network.origin.points
    size = f"{network.in_channels} x {network.image_size} x {network.image_size}"
    console.print(f"{network.name}: images of {size}, {network.num_classes} classes")
    console.print(f"{costs.relus:,} ReLUs, {costs.macs:,} MACs, depth {costs.depth}, {costs.params:,} parameters\n")

    layers = _table("stage", "ReLU layer", "map", "ReLUs", "share", "a gate replaces")
    for layer in network.relu_layers():
        block = blocks.get(layer.name)
        replaced = _convs(block) if block else ""
        share = f"{layer.relu.size / costs.relus:.1%}"
        shape = "x".join(map(str, shapes[layer.name]))
        layers.add_row(str(stage_of[layer.name]), layer.name, shape, f"{layer.relu.size:,}", share, replaced)
    _print_whole(layers, console)
    console.print(
        "\nA gate replaces the two convolutions around its ReLU by one, where few of the layer's ReLUs are kept (--d-th). Each "
        "convolution belongs to one pair at most, front to back; the first of all to none.\n"
    )

    stages = _table("stage", "ends at", "map", "MACs", "depth", "exit")
    for number, point in enumerate(network.origin.points, start=1):
        here = f"--ac-after {number}" if number < network.num_stages else "final"
        macs, depth = _until(network, point)
        stages.add_row(str(number), point, "x".join(map(str, shapes[point])), f"{macs:,}", str(depth), here)
    _print_whole(stages, console)
    console.print()
    for part in costs.layers:
        if part.comparisons:
            console.print(
                f"{part.layer} ({part.kind}) takes {part.comparisons:,} comparisons, each as dear as a ReLU under private "
                "inference; no budget counts them. An average pool takes none."
            )
    try:
        graph_of(fold_batchnorm(collapse(network)))
        console.print("Private inference can run it (raysp pi).")
    except ValueError as error:
        console.print(f"Private inference can't run it: {error}.")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="fold", justify="right" if column in RIGHT else "left")
    return table


def _print_whole(table: Table, console: Console) -> None:
    """Names that are cut off are of no use: rather let a narrow terminal break lines."""
    room = console.options.update(max_width=1000)
    wide = Console(
        width=max(console.width, Measurement.get(console, room, table).maximum), highlight=False, emoji=False, file=console.file
    )
    wide.print(table)


def _convs(block: "GatedBlock") -> str:
    return " and ".join(
        f"{'x'.join(map(str, conv.kernel_size))}{f', stride {conv.stride[0]}' if conv.stride[0] > 1 else ''}"
        for conv in block.convs
    )


def _until(network: "Network", point: str) -> tuple[int, int]:
    """MACs and depth up to a node."""
    from raysp.models.costs import count_costs
    from raysp.models.graph import Graph
    from raysp.models.network import Network

    graph = Graph(nodes=network.graph.nodes, exits={"final": point}).pruned()
    body = {node.module: network.module_at(node.module) for node in graph.nodes if node.module}
    costs = count_costs(Network(graph, body, network.origin))
    return costs.macs, costs.depth
