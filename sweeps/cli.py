"""A sweep as a command: parsing, and exit statuses.

Owns the statuses: 0 all done, 1 a stage or a measurement failed or the run broke off (the results root was lost, a disk is full),
2 bad input (nothing was trained), 130 interrupted, 143 terminated. What needs torch is imported when the flags are known to be
good.
"""

import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from rich.markup import escape

from raysp.command.terminal import consoles, shield
from raysp.engine import termination
from raysp.engine.shadows import first_directories, refuse_shadows
from sweeps.flags import FLAG_OF, RunFlags, SweepFlags, check_given

if TYPE_CHECKING:
    from sweeps.running import Work

Flags = TypeVar("Flags")


def sweep(description: str, arguments: Sequence[str] | None = None, prog: str | None = None, **defaults: tuple[Any, ...]) -> None:
    """A whole sweep over axes: parse the command line, train every combination of the axes' values, exit.

    Args:
        description: what it compares; shown by `--help`.
        arguments, prog: as `main` takes them.
        defaults: values by the name of a field of `raysp.methods.choices.Choice`, where the sweep has its own instead of the
            preset's.
    """

    def prepare(flags: SweepFlags) -> "Work":
        from sweeps.axes import work_of

        return work_of(flags, defaults)

    own = "; ".join(f"{_flag(name)} {' '.join(map(_shown, values))}" for name, values in defaults.items())
    help_text = f"{description.strip()}\n\nIts own defaults: {own}." if own else description.strip()
    main(SweepFlags, prepare, help_text, arguments, prog)


def main(
    flags_type: type[Flags],
    prepare: "Callable[[Flags], Work]",
    description: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line, run the sweep, exit.

    Args:
        flags_type: a dataclass of flags with a field `run` of `RunFlags`.
        prepare: from the flags to the work; raises ValueError for bad input.
        description: shown by `--help`.
        arguments: without the command's name; None takes the process'.
        prog: the command's name, as it was called; None takes the script's.
    """
    shield()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    prog = Path(sys.argv[0]).name if prog is None else prog
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    flags = tyro.cli(flags_type, args=arguments, prog=prog, description=description, config=config)
    run: RunFlags = flags.run  # type: ignore[attr-defined]
    command = f"{prog} {shlex.join(arguments)}".strip()
    again = f"; the same command goes on from the last checkpoints: {escape(command)}"
    console, errors = consoles()
    put_back, hurried = termination.install(), False
    try:
        if "None" in arguments:  # what the parser would take for a flag that was left out
            raise ValueError("None is not a value; expected one, or leave the flag out (where a flag can be off, it is none)")
        check_given(flags)
        check_given(run)
        options = run.options()
        refuse_shadows(first_directories())  # before torch is imported
        work = prepare(flags)
        from sweeps.running import train

        status = train(run, options, work, console, command)
    except KeyboardInterrupt as error:
        by_signal = termination.told() or isinstance(error, termination.Terminated)
        ended, status = ("terminated", 143) if by_signal else ("interrupted", 130)
        hurried = True
        errors.print(f"{ended}{again}", soft_wrap=True)
    except Exception as error:
        status = _status_of(error)
        if run.verbose:
            traceback.print_exc()
        errors.print(f"[bold red]error:[/] {escape(str(error))}{again if status == 1 else ''}", soft_wrap=True)
    finally:
        put_back()
        if hurried:  # a second Ctrl-C would change the status of a process that is ending
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def _status_of(error: Exception) -> int:
    """2 where nothing was trained, 1 where a run broke off; what is neither is a mistake of ours, and raised again."""
    if isinstance(error, ValueError):
        return 2
    from sweeps.running import BROKEN_OFF, REFUSED

    if isinstance(error, BROKEN_OFF):
        return 1
    if isinstance(error, REFUSED):
        return 2
    raise error


def _flag(name: str) -> str:
    return "--" + FLAG_OF.get(name, name).replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
