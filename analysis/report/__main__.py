"""`raysp report`, or `python -m analysis.report`: parsing, and exit statuses.

Statuses: 0 written, 1 no model meets the limits (the nearest are named), 2 bad input or nothing to read, 130 interrupted. What is
done and printed is `analysis.report.command`'s, which is imported when the flags are known to be good.
"""

import sys
from collections.abc import Sequence

import tyro
from rich.markup import escape

from analysis.report.flags import ReportFlags
from raysp.command.terminal import consoles, shield


def main(arguments: Sequence[str] | None = None, prog: str = "python -m analysis.report") -> None:
    """Parse, write, print, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    shield()
    flags = tyro.cli(ReportFlags, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    console, errors = consoles(width=160)
    try:
        flags.check()
        from analysis.report.command import run  # pandas and matplotlib take seconds to import

        status = run(flags, console)
    except KeyboardInterrupt:
        status = 130
    except (ValueError, OSError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
