"""A toy sweep with every sweep's command line: `python toy_cli.py --storage DIR [--inline] ...`."""

from dataclasses import dataclass

from toy import diamond

from sweeps.cli import main
from sweeps.flags import RunFlags
from sweeps.running import Work


@dataclass(frozen=True, kw_only=True)
class ToyFlags:
    run: RunFlags


if __name__ == "__main__":
    main(ToyFlags, lambda flags: Work(leaves=diamond(epochs=6), sources=[], name="toy"), "A toy sweep.")
