"""`raysp pi measure|calibrate|predict`, or `python -m raysp.pi ...`: parsing, and exit statuses.

Statuses: 0 done, 1 a measurement failed, 2 bad input, or something is missing; 130 interrupted, 143 terminated. What is done and
printed is `raysp.pi.commands`', which is imported when the flags are known to be good.
"""

import sys
from collections.abc import Sequence

import tyro

from raysp.command.terminal import shield
from raysp.engine import termination
from raysp.pi.flags import Calibrate, Measure, Predict


def main(arguments: Sequence[str] | None = None, prog: str = "python -m raysp.pi") -> None:
    """Parse, do, print, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    shield()
    command = tyro.cli(
        Measure | Calibrate | Predict,
        args=arguments,
        prog=prog,
        description="What trained models cost under private inference: measured, or predicted from a calibration.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    put_back = termination.install()
    try:
        from raysp.pi.commands import run  # torch takes seconds to import

        status = run(command)
    except KeyboardInterrupt as error:
        print("interrupted; nothing was kept", file=sys.stderr)
        status = 143 if termination.told() or isinstance(error, termination.Terminated) else 130
    finally:
        put_back()
    sys.exit(status)


if __name__ == "__main__":
    main()
