"""The networks, by name; their masks, gates and exits, and what they cost."""

from torch import nn

from raysp.models.builtin import MODELS, Architecture, SmallImageNetwork
from raysp.models.gates import find_chains
from raysp.models.graph import Graph
from raysp.models.network import Network, Origin
from raysp.models.places import Untraceable
from raysp.models.structure import find_stages, shapes_of
from raysp.models.tracing import trace

__all__ = ["MODELS", "architecture", "build_model", "network_of"]


def architecture(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        ValueError: unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def build_model(name: str, *, num_classes: int, image_size: int = 32, in_channels: int = 3, width: int | None = None) -> Network:
    """Build a network with random weights from torch's generator.

    Args:
        name: a key of `MODELS`.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels.
        in_channels: channels of the images.
        width: channels of the first stage; None takes the model's own (128 for wrn22-8, 64 for the others).

    Raises:
        ValueError: unknown name, or an argument out of range.
    """
    known = architecture(name)
    width = known.default_width if width is None else width
    plain = SmallImageNetwork(known, num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)
    return network_of(plain, name=name, num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)


def network_of(
    module: nn.Module,
    *,
    name: str,
    num_classes: int,
    image_size: int,
    in_channels: int = 3,
    relu6: bool = False,
    width: int | None = None,
) -> Network:
    """Make a network of any plain convolutional one: its ReLUs get masks, its gates and exits can be placed.

    Args:
        module: maps images (n, in_channels, image_size, image_size) to logits (n, num_classes). The network shares its weights.
        name: what to call it.
        num_classes: classes, 2 or more.
        image_size: height and width of the images in pixels.
        in_channels: channels of the images.
        relu6: take ReLUs for min(max(x, 0), 6).
        width: of a built-in network.

    Raises:
        ValueError: something in the module isn't known; the message says what, and where it stands.
    """
    trains = module.training
    traced = trace(module, in_channels=in_channels, image_size=image_size, relu6=relu6)
    shapes = shapes_of(traced.graph, traced.modules, (in_channels, image_size, image_size))
    logits = shapes[traced.graph.exits["final"]]
    if logits != (num_classes,):
        raise Untraceable(
            f"the network gives {logits[0]} logits{traced.place}; expected one for each of {num_classes} classes: build it so"
        )
    stages = find_stages(traced.graph, traced.modules, shapes)
    if not stages:
        raise Untraceable(
            f"the network has no second convolution that all data pass through{traced.place}; expected a convolutional network"
        )
    graph = Graph(nodes=traced.graph.nodes, exits=traced.graph.exits, features=tuple(s.feature for s in stages))
    origin = Origin(
        name=name,
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        points=tuple(stage.node for stage in stages),
        width=width,
    )
    network = Network(graph, traced.modules, origin, find_chains(graph, traced.modules))
    if not network.relu_layers():
        raise Untraceable(f"the network has no ReLU{traced.place}; expected one with ReLUs to choose among")
    network.left_out = frozenset(module.state_dict()) - frozenset(network.state_dict())
    return network.train(trains)
