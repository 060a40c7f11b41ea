"""What `raysp pi` does and prints, once its flags are known to be good."""

import json
import os
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysp.command.terminal import consoles
from raysp.latency.known import packaged, read_calibrations
from raysp.latency.links import LAN, WAN, parse_link
from raysp.latency.prediction import predict
from raysp.latency.protocols import MEANING
from raysp.models.exits import exit_of
from raysp.models.files import load_model
from raysp.pi import MeasureOptions, PartyFault, require_engine
from raysp.pi.calibration import calibrate, family
from raysp.pi.flags import Calibrate, Measure, Predict
from raysp.pi.machine import disturbed
from raysp.pi.session import LONGEST_S
from raysp.pi.stored import measure_stored
from raysp.store.location import exists, locate, write_atomically
from raysp.store.lock import StoreBusy
from raysp.store.paths import user_path
from raysp.store.records import NoLongerOwner
from raysp.store.tensor_files import DamagedFile


def run(command: Measure | Calibrate | Predict) -> int:
    """Do what was asked for, and say what came of it or why not; returns the exit status."""
    console, errors = consoles()
    try:
        if isinstance(command, Predict):
            _predict(command, console)
        else:
            require_engine()
            _measure(command, console) if isinstance(command, Measure) else _calibrate(command, console)
    except PartyFault as error:
        errors.print(f"[bold red]failed:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except (ValueError, OSError, StoreBusy, NoLongerOwner, DamagedFile) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    return 0


def _measure(flags: Measure, console: Console) -> None:
    options = MeasureOptions(
        protocol=flags.protocol, warm=flags.warm, host=flags.host, ports=flags.ports, limit_s=flags.time_limit_s
    )
    path, found = measure_stored(
        flags.model, exit=flags.exit, options=options, image=None if flags.image is None else user_path(flags.image),
        calibration=None if flags.calibration is None else locate(flags.calibration),
        tell=lambda line: console.print(escape(line), soft_wrap=True),
    )  # fmt: skip
    console.print(f"{found['exit']}, {found['protocol']} ({MEANING[found['protocol']]}), {found['relus']} ReLUs")
    low, high = found["time_s_range"]
    console.print(f"warm  {found['time_s']:.3g} s (median of {found['warm_runs']}, {low:.3g} to {high:.3g}), "
                  f"{found['bytes'] / 1e6:.4g} MB, {found['messages']:.0f} messages")  # fmt: skip
    console.print(f"cold  {found['cold']['time_s']:.3g} s, {found['cold']['bytes'] / 1e6:.4g} MB")
    _warn(found["others_cores"], console)
    if found["predicted"]:
        console.print(f"predicted  {found['predicted']['time_s']:.3g} s, {found['predicted']['bytes'] / 1e6:.4g} MB (warm)")
    console.print(f"largest error {found['max_error']:.2g}, class {'agrees' if found['same_class'] else 'DIFFERS'}")
    table = Table("operation", box=None, pad_edge=False)
    for heading in ("times", "s", "bytes", "messages"):
        table.add_column(heading, justify="right")
    for row in found["operations"]:
        if row["bytes"] or row["time_s"] > 0.01 * found["time_s"]:
            table.add_row(
                row["operation"], str(row["times"]), f"{row['time_s']:.3g}", f"{row['bytes']:,.0f}", f"{row['messages']:.0f}"
            )
    console.print(table)
    console.print(str(path), soft_wrap=True)


def _calibrate(flags: Calibrate, console: Console) -> None:
    out = user_path(flags.out)
    if exists(out):
        raise ValueError(f"{out} exists; give another file, so that nothing is overwritten")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK | os.X_OK)):
        raise ValueError(f"{out.parent} is no directory that can be written to; make it, or give another file")
    if flags.runs < 1 or not 0 < flags.time_limit_s <= LONGEST_S:
        raise ValueError(f"{flags.runs} runs in {flags.time_limit_s:g} s; expected at least 1, and from 0 to {LONGEST_S:g} s")
    described: dict[str, Any] = {
        "model": flags.model, "num_classes": flags.num_classes, "image_size": flags.image_size, "width": flags.width,
        "in_channels": flags.in_channels, "kernels": flags.kernels, "heads": flags.heads,
    }  # fmt: skip
    networks = family(described["model"], **{name: value for name, value in described.items() if name != "model"})
    found = calibrate(
        networks, protocol=flags.protocol, described=described, runs=flags.runs, limit_s=flags.time_limit_s,
        tell=lambda line: console.print(escape(line), soft_wrap=True),
    )  # fmt: skip
    if exists(out):  # since the start: neither is to be lost
        out = out.with_name(f"{out.name}.{os.getpid()}")
    write_atomically(out, json.dumps(found.to_json(), indent=1, allow_nan=False).encode())
    _warn(found.others_cores, console)
    console.print(f"{len(found.layers)} layers: {out}", soft_wrap=True)


def _warn(others_cores: float | None, console: Console) -> None:
    if note := disturbed(others_cores):
        console.print(f"[yellow]note[/] {note}")


def _predict(flags: Predict, console: Console) -> None:
    links = {link.name: link for link in (LAN, WAN, *([] if flags.link is None else [parse_link(flags.link)]))}
    calibrations = read_calibrations([locate(path) for path in flags.calibration]) if flags.calibration else packaged()
    model = load_model(flags.model)
    found = predict(model, exit_of(model.exit_names, flags.exit), calibrations, tuple(links.values()))
    protocol = calibrations.first.protocol
    console.print(f"{protocol} ({MEANING[protocol]}), one warm image on the machine of {found.calibration}:", soft_wrap=True)
    console.print(f"{found.time_s:.3g} s, {found.bytes / 1e6:.4g} MB, {found.messages:.0f} messages")
    for name, seconds in found.modelled_s.items():
        console.print(f"{name}: at most {seconds:.3g} s (modelled, not measured)")
    if found.fitted:
        console.print(f"fitted, because no calibration has them: {', '.join(found.fitted)}", soft_wrap=True)
    _warn(calibrations.others_cores, console)
