"""Which network a user means: one of the built-in ones, a function of their own, torchvision's or timm's.

Owns reading the words, and calling what they name. Refuses to know what is done with the network. The user's code runs here and
nowhere else: what is trained, saved and sent to other machines is the network's description.
"""

import importlib
import inspect
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raysp.models import MODELS, network_of
from raysp.models.builtin import draw_weights
from raysp.models.description import build, describe
from raysp.models.network import Network
from raysp.store.extras import remedy_for

HOW = "expected resnet18, resnet34, wrn22-8 or vgg16, torchvision:NAME, timm:NAME, or package.module:function"


def is_builtin(spec: str) -> bool:
    """Whether a name is a built-in network's, or looks as if it were to be one."""
    return spec in MODELS or ":" not in spec


def check_flags(spec: str, *, width: int | None, relu6: bool) -> None:
    """Refuse what only a network of the other kind takes.

    Raises:
        ValueError: a width for a network that isn't built in, or ReLU6 for one that is.
    """
    if is_builtin(spec) and relu6:
        raise ValueError(f"--relu6 with {spec}, which has none; expected it with a network of your own")
    if not is_builtin(spec) and width is not None:
        raise ValueError(f"--width with {spec}; expected it with a built-in network alone: say it in your own")


def open_network(spec: str, *, num_classes: int, image_size: int, in_channels: int, relu6: bool = False) -> Network:
    """Call what a user named, and trace what it gives.

    Args:
        spec: torchvision:NAME, timm:NAME, or package.module:function, which lies in the working directory or is installed. The
            function is called with `num_classes`, `in_channels` and `image_size`, as far as it takes them.
        num_classes, image_size, in_channels: of the data.
        relu6: take plain ReLUs for ReLU6.

    Raises:
        ValueError: there is no such thing, it fails, or it gives what isn't known; the message says where.
    """
    sizes = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    package, _, name = spec.partition(":")
    if not package or not name or package.startswith(".") or not (package in ("torchvision", "timm") or name.isidentifier()):
        raise ValueError(f"--model {spec!r:.200}; {HOW}")
    with torch.random.fork_rng(devices=[]):  # what it draws doesn't count
        module = {"torchvision": _torchvision, "timm": _timm}.get(package, _own)(spec, sizes)
    if not isinstance(module, nn.Module):
        raise ValueError(f"--model {spec}: gives a {type(module).__name__}; expected a torch.nn.Module")
    try:
        return network_of(module, name=spec, num_classes=num_classes, image_size=image_size, in_channels=in_channels, relu6=relu6)
    except ValueError as error:
        raise ValueError(f"--model {spec}: {error}") from error


def text_of(network: Network) -> str:
    """A network's description as text: equal texts, equal networks. What it is called doesn't count."""
    description = describe(network)
    description["origin"]["name"] = ""
    return json.dumps(description, sort_keys=True)


def drawn(text: str, name: str) -> Network:
    """The network of such a text, with weights drawn from torch's generator, as built-in networks' are.

    Args:
        text: see `text_of`.
        name: what to call it.
    """
    description = json.loads(text)
    description["origin"]["name"] = name
    network = build(description).train()
    draw_weights(network)
    return network


def _torchvision(spec: str, sizes: dict[str, int]) -> Any:
    from torchvision import models

    name = spec.partition(":")[2]
    if name not in models.list_models(module=models):
        raise ValueError(f"--model {spec}: torchvision has no such model; it has {', '.join(models.list_models(module=models))}")
    if sizes["in_channels"] != 3:
        raise ValueError(f"--model {spec}: it reads 3 channels, the images have {sizes['in_channels']}; give a model of your own")
    builder = models.get_model_builder(name)
    without = {"aux_logits": False, "init_weights": False}  # an auxiliary classifier of its own; and a minute of drawing
    taken = {key: value for key, value in without.items() if key in inspect.signature(inspect.unwrap(builder)).parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of weights that aren't used
        return _called(spec, lambda: models.get_model(name, weights=None, num_classes=sizes["num_classes"], **taken))


def _timm(spec: str, sizes: dict[str, int]) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"--model {spec} needs timm: {remedy_for('timm')} ({error})") from error
    name = spec.partition(":")[2]
    if not timm.is_model(name):
        like = ", ".join(timm.list_models(f"*{name[:6]}*")[:8])
        raise ValueError(f"--model {spec}: timm has no such model{f'; it has {like}' if like else ''}")
    chosen = {"num_classes": sizes["num_classes"], "in_chans": sizes["in_channels"]}
    return _called(spec, lambda: timm.create_model(name, pretrained=False, **chosen))


def _own(spec: str, sizes: dict[str, int]) -> Any:
    package, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and (package == error.name or package.startswith(f"{error.name}.")):
            raise ValueError(
                f"--model {spec}: there is no module {package} in {here}, and none is installed; expected "
                "package.module:function, as Python would import it from there"
            ) from error
        raise ValueError(f"--model {spec}: {package} needs {error.name}, which isn't installed") from error
    except (Exception, SystemExit) as error:  # a script that ends itself
        raise ValueError(f"--model {spec}: {package} can't be imported: {_told(error)}") from error
    function = getattr(module, name, None)
    if isinstance(function, nn.Module):
        raise ValueError(f"--model {spec}: {name} is a network; expected a function that builds one")
    if not callable(function):
        where = f" ({found})" if (found := getattr(module, "__file__", None)) else ""
        raise ValueError(f"--model {spec}: {package}{where} has no function {name}; expected one that gives the network")
    try:
        taken = dict(inspect.signature(function).parameters)
    except ValueError as error:
        raise ValueError(f"--model {spec}: {name} doesn't say what it takes; expected a function of yours") from error
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    given = {key: value for key, value in sizes.items() if anything or key in taken}
    return _called(spec, lambda: _with_what_it_takes(function, given, set(taken)))


def _with_what_it_takes(function: Callable[..., Any], given: dict[str, int], named: set[str]) -> Any:
    """Call a function. Where its `**kwargs` lead, no signature says: what is refused there is left out."""
    try:
        return function(**given)
    except TypeError as error:
        refused = {key for key in given if key not in named and f"unexpected keyword argument '{key}'" in str(error)}
        if not refused:
            raise
    return _with_what_it_takes(function, {key: value for key, value in given.items() if key not in refused}, named)


def _called(spec: str, call: Any) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:  # the user's code
        raise ValueError(f"--model {spec}: it fails when it is called: {_told(error)}") from error


def _told(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).splitlines()[0] if str(error) else frame.line or ""  # a bare assertion says nothing
    return f"{type(error).__name__}: {text:.300} ({frame.filename}:{frame.lineno})"
