"""`raysp report`, or `python -m analysis.report`: parsing, and exit statuses.

Statuses: 0 written, 1 no model meets the limits (the nearest are named), 2 bad input or nothing to read, 130 interrupted. What is
done and printed is `analysis.report.command`'s, which is imported when the flags are known to be good.
"""

import sys
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.markup import escape

from analysis.report.flags import ReportFlags


def main(arguments: Sequence[str] | None = None, prog: str = "python -m analysis.report") -> None:
    """Parse, write, print, exit.

    Args:
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called.
    """
    flags = tyro.cli(ReportFlags, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    errors = Console(stderr=True, highlight=False)
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
