"""Measures the layers of the calibrations that come with the package anew, on this machine: to be done when it is quiet.

    python benchmarks/calibrations.py                       # all, some 20 minutes on two quiet cores
    python benchmarks/calibrations.py --only resnet18-width16-32px

Needs the extra `pi`. Each file is replaced by one of the same family, but not where others kept cores busy meanwhile: then its
seconds would be too long. All must be of one machine, or reports refuse them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from raysp.latency import tables
from raysp.pi.calibration import calibrate, family
from raysp.pi.machine import disturbed
from raysp.store.location import write_atomically

FILES = Path(tables.__file__).parent / "calibrations"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Which, and how."""

    only: tuple[str, ...] = ()
    """Their names; all by default."""
    runs: int = 5
    """Of each layer."""
    even_if_busy: bool = False
    """Replace files though other processes disturbed the measurement; bytes, messages and round trips are right even so."""


def main(flags: Flags) -> None:
    """Measure one after the other, and say what became of each."""
    for path in sorted(FILES.glob("*.json")):
        if flags.only and path.stem not in flags.only:
            continue
        before = tables.read_calibration(path)
        networks = family(before.family["model"], **{name: value for name, value in before.family.items() if name != "model"})
        found = calibrate(networks, protocol=before.protocol, described=before.family, runs=flags.runs)
        busy = disturbed(found.others_cores)
        if not busy or flags.even_if_busy:
            write_atomically(path, json.dumps(found.to_json(), indent=1, allow_nan=False).encode())
        print(f"{path.stem}: {len(found.layers)} layers{f'; {busy}' if busy else ''}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
