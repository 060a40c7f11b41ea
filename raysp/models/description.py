"""All that must be known to build a network again: a description that is data, not code.

Owns the description, making it from a network in whatever state it is, and building from it. Refuses to read or write files
(`raysp.models.files`). A network is loaded without the code that once built it.
"""

from dataclasses import asdict
from typing import Any

from raysp.models.exits import AC_HEADS
from raysp.models.gates import Chain, Gate
from raysp.models.graph import FUNCTIONS, IMAGE, Graph, Node
from raysp.models.network import Network, Origin
from raysp.models.operations import built, described

FORMAT = 2
"""Before it, a description named one of the built-in networks; see `raysp.models.named`."""

MOST_MODULES = 20_000
"""More are taken for a damaged file."""


def describe(model: Network) -> dict[str, Any]:
    """Describe a network in whatever state it is, as plain JSON."""
    return {
        "format": FORMAT,
        "origin": asdict(model.origin),
        "modules": {path: described(module) for path, module in model.called().items()},
        "nodes": [
            [n.name, list(n.inputs), n.module] if n.module else [n.name, list(n.inputs), n.function, list(n.options)]
            for n in model.graph.nodes
        ],
        "exits": dict(model.graph.exits),
        "features": list(model.graph.features),
        "chains": [asdict(chain) for chain in model.chains],
        "gates": {c.gate: gate.gamma for c in model.chains if c.gate and isinstance(gate := model.module_at(c.gate), Gate)},
        "ac_heads": dict(model.ac_heads),
        "input_mean": list(model.input_mean),
        "input_std": list(model.input_std),
    }


def build(description: dict[str, Any]) -> Network:
    """Build the network of a description, in evaluation mode, with weights of no meaning.

    Raises:
        ValueError, TypeError, KeyError: it isn't one.
    """
    if description.get("format") != FORMAT:
        raise ValueError(f"format {description.get('format')!r:.40}; expected {FORMAT}")
    origin = Origin(**{**description["origin"], "points": tuple(description["origin"]["points"])})
    if len(description["modules"]) > MOST_MODULES:
        raise ValueError(f"{len(description['modules'])} modules; expected at most {MOST_MODULES}")
    known, nodes = {IMAGE}, []
    for name, inputs, called, *options in description["nodes"]:
        known_ones = FUNCTIONS if options else description["modules"]  # only functions have options
        if name in known or not known.issuperset(inputs) or called not in known_ones:
            raise ValueError(f"node {name!r:.80}: reads or calls what isn't there, or comes twice")
        known.add(name)
        what = {"function": called, "options": tuple(options[0])} if options else {"module": called}
        nodes.append(Node(name=name, inputs=tuple(inputs), **what))
    exits, features = dict(description["exits"]), tuple(description["features"])
    if not exits or not known.issuperset((*exits.values(), *features)):
        raise ValueError(f"exits {exits!r:.200}; expected nodes")
    if any(head not in AC_HEADS for head in description["ac_heads"].values()):
        raise ValueError(f"ac_heads {description['ac_heads']!r:.200}; expected {', '.join(AC_HEADS)}")
    if not len(description["input_mean"]) == len(description["input_std"]) == origin.in_channels:
        raise ValueError(f"{len(description['input_mean'])} means for {origin.in_channels} channels")
    modules = {path: built(module) for path, module in description["modules"].items()}
    chains = [Chain(**chain) for chain in description["chains"]]
    for path, gamma in description["gates"].items():
        gate = modules[path]
        if not isinstance(gate, Gate) or not 0 <= gamma <= 1:
            raise ValueError(f"gate {gamma!r:.40} at {path!r:.80}; expected one from 0 to 1")
        gate.gamma = float(gamma)
    network = Network(Graph(nodes=tuple(nodes), exits=exits, features=features), modules, origin, chains)
    network.ac_heads = dict(description["ac_heads"])
    network.input_mean, network.input_std = list(description["input_mean"]), list(description["input_std"])
    return network.eval()
