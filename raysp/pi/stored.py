"""Measuring a model where it lies, and keeping the result beside it.

Owns the way from a directory to its `pi-<exit>-<protocol>.json`. Contract: while a model of a results root is measured, nothing
trains in that root; an older measurement of the same exit and protocol is replaced, as a whole; nothing else is written.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raysp.data.facts import told
from raysp.latency.known import read_calibrations
from raysp.latency.links import LAN, WAN
from raysp.latency.prediction import predict
from raysp.models.exits import exit_of
from raysp.models.files import checked_weights, load_model
from raysp.models.network import Network
from raysp.pi import MeasureOptions, machine, measure, require_engine
from raysp.pi.engine import chosen
from raysp.pi.files import name_of
from raysp.store.location import Location, exists, locate, read_given, write_atomically
from raysp.store.records import RECORD, WEIGHTS, Store

Tell = Callable[[str], None]
Write = Callable[[Location, bytes], None]


def calibration_name(protocol: str) -> str:
    """Where in a results root a calibration is looked for."""
    return f"pi-calibration-{protocol}.json"


def measure_stored(
    directory: str | Path | Location,
    *,
    exit: str | None,  # noqa: A002 (the field's word)
    options: MeasureOptions,
    image: Path | None = None,
    calibration: Location | None = None,
    tell: Tell = lambda message: None,
) -> tuple[Location, dict[str, Any]]:
    """Measure a model, and write what came out into its directory.

    Args:
        directory: a finished stage's, or one that `save_model` wrote.
        exit: which; None takes the final one, or the only one.
        options: how.
        image: a picture for it to look at; None takes noise.
        calibration: says what was to be expected; None looks for one in the results root.
        tell: told when it has to wait.

    Returns:
        The file, and its content.

    Raises:
        ValueError: the engine is missing, or there is no such model, exit, image or calibration.
        StoreBusy: something trains in the results root.
        DamagedFile: the record is about other weights.
        raysp.pi.session.PartyFault: the run failed.
        OSError: the file can't be written.
    """
    require_engine()
    place = locate(directory) if isinstance(directory, str) else directory
    if isinstance(place, Path):
        place = place.resolve()  # by whatever way it was reached, it lies in its results root
    model = load_model(str(place))
    weights = checked_weights(place)
    name = exit_of(model.exit_names, exit)
    picture = None if image is None else read_image(image, model)
    root = _root_of(place)
    expected = None
    if calibration is not None:
        expected = _predicted(model, name, calibration, options.protocol)
    elif root is not None and exists(root / calibration_name(options.protocol)):
        try:
            expected = _predicted(model, name, root / calibration_name(options.protocol), options.protocol)
        except ValueError as error:  # nobody asked for this one
            tell(f"nothing is predicted: {error}")
    with _writing(root, tell) as write:
        if checked_weights(place) != weights:
            raise ValueError(f"{place / WEIGHTS} was changed meanwhile; measure again")
        if isinstance(place, Path) and not os.access(place, os.W_OK | os.X_OK):
            raise ValueError(f"{place} can't be written to, and what is measured is kept there; copy the model elsewhere")
        content = {
            **measure(model, name, options, picture, tell),
            "weights": weights,
            "predicted": expected,
            "modelled": None,
        }
        trips = min(content["parties"][role]["messages"] for role in content["parties"])
        content["modelled"] = {
            "what": "modelled, not measured: traffic and at most so many round trips on top of the measured time",
            **{
                link.name.upper(): link.modelled_s(time_s=content["time_s"], num_bytes=content["bytes"], round_trips=trips)
                for link in (LAN, WAN)
            },
        }
        path = place / name_of(name, options.protocol)
        write(path, json.dumps(content, indent=1, allow_nan=False).encode())
    return path, content


def read_image(path: Path, model: Network) -> Tensor:
    """A picture as a network wants it: resized, and normalised as in its training. Raises ValueError."""
    if model.in_channels not in (1, 3):
        raise ValueError(f"{path}: the model's images have {model.in_channels} channels; expected 1 or 3 for a picture")
    content = io.BytesIO(read_given(path, "a picture"))
    try:
        with Image.open(content) as picture:
            sized = picture.convert("RGB" if model.in_channels == 3 else "L").resize((model.image_size, model.image_size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a picture that can be read ({told(error)})") from None
    pixels = (
        torch.from_numpy(np.array(sized, dtype=np.float32) / 255).view(model.image_size, model.image_size, -1).permute(2, 0, 1)
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.input_mean, model.input_std))
    return ((pixels - mean) / std).contiguous()


def _predicted(model: Network, name: str, path: Location, protocol: str) -> dict[str, Any]:
    """What a calibration says of a model: its time is of the machine and the versions that it names, and of no other.

    Raises:
        ValueError: it can't be read, is of another protocol, or doesn't tell a layer.
    """
    known = read_calibrations([path])
    if known.first.protocol != protocol:
        raise ValueError(f"{path} is of {known.first.protocol}; expected one of {protocol}")
    here = {"machine": machine.describe(), "versions": machine.versions(chosen().packages)}
    if (known.first.machine, known.first.versions) != (here["machine"], here["versions"]):
        raise ValueError(f"{path} was made on another machine or with other versions; calibrate here, or leave it out")
    return predict(model, name, known).summary()


def _root_of(directory: Location) -> Location | None:
    """The results root that a stage's directory lies in; None for one that stands alone."""
    return directory.parent.parent if directory.parent.name == "stages" and exists(directory / RECORD) else None


@contextmanager
def _writing(root: Location | None, tell: Tell) -> Iterator[Write]:
    if root is None:
        yield write_atomically
    else:
        with Store(root=root).lock(tell) as store:
            yield store.write
