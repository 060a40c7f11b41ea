"""Made-up calibrations of networks' layers, for what is computed from them."""

from raysp.latency.graph import graph_of
from raysp.latency.known import Calibrations
from raysp.latency.shapes import shape_of
from raysp.latency.tables import NOTHING, Calibration, PartCosts, ReLUCosts
from raysp.models import build_model
from raysp.models.collapse import collapse, drop_main_branches, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.network import Network
from raysp.pi.calibration import family

PART = PartCosts(time_s=1.0, bytes=1000.0, messages=4.0, round_trips=2.0)


def members(kernels=(3,), heads=("pool",), model="resnet18", image_size=16, in_channels=3, width=4, num_classes=7):
    return family(
        model, num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width, kernels=kernels, heads=heads
    )


def shapes_in(networks_):
    graphs = [graph_of(network) for network in networks_]
    return sorted({shape for graph in graphs for operation in graph.operations if (shape := shape_of(operation, graph))})


def calibration(networks_, relu=PART, costs=None, **changes):
    """Of all layers of some networks.

    Args:
        costs: from a shape's name to what it takes; by default `PART`, whatever it is.
    """
    layers = {shape: costs(shape) if costs else PART for shape in shapes_in(networks_)}
    of_relus = ReLUCosts(layer=PART, relu=relu, position_s=0.0, renewal=NOTHING)
    found = {"protocol": "cheetah", "family": {}, "versions": {"spu": "1"}, "machine": {"cpus": 2}, "others_cores": 0.0}
    return Calibration(**found | changes, layers=layers, relu=of_relus)


def known(*args, **kwargs):
    return Calibrations({"mine": calibration(*args, **kwargs)})


def collapsed(model, exit_name):
    return fold_batchnorm(collapse(model, exit_name))


def small(**changes):
    sizes = {"num_classes": 10, "image_size": 8, "in_channels": 1, "width": 4}
    return build_model("resnet18", **sizes | changes)


def recorded(model: Network, *, key="0", gated=(), kernel_size=3, ac_after=(), ac_head="pool"):
    """What a fine-tuning would write of a network."""
    deployed = drop_main_branches(model)
    costs = {name: count_costs(deployed, name) for name in deployed.exit_names}
    data = {"num_classes": model.num_classes, "image_size": model.image_size, "channels": model.in_channels}
    return {
        "key": key,
        "stage": "finetune",
        "config": {
            "experiment": {"data": data, "model": model.name, "width": model.width, "seed": 0},
            "kernel_size": kernel_size, "ac_after": list(ac_after), "ac_head": ac_head,
        },
        "metrics": {"gated_blocks": list(gated), "costs": {name: found.by_layer() for name, found in costs.items()}},
        "rows": [{"exit": name, "model": model.name} for name in costs],
    }  # fmt: skip
