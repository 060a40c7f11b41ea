"""The commands of `raysp` by name.

Owns the list of commands, and finding the one that is meant. Refuses to know any command's flags, and imports none of them
itself: most stand in rooms above this one. Contract: a command's module is imported when the command is called, so that help and
slips cost no time. Statuses are the commands' own; 2 where none was named.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from raysp import __version__
from raysp.command.terminal import shield


@dataclass(frozen=True)
class Command:
    """One command."""

    module: str
    """Its `main(arguments, prog)` is the command."""
    summary: str
    """For the list."""


COMMANDS = {
    "sweep budget": Command("sweeps.budget_sweep", "train for several ReLU budgets, and find the Pareto front"),
    "sweep threshold": Command("sweeps.threshold_sweep", "how shallow: thresholds of gated branching"),
    "sweep schedule": Command("sweeps.schedule_sweep", "how shallow branches take over: the gate's growth and start"),
    "sweep ac": Command("sweeps.ac_sweep", "auxiliary classifiers after one stage or another"),
    "sweep mask": Command("sweeps.mask_sweep", "which ReLUs stay: mask methods against each other"),
    "sweep paper": Command("sweeps.paper", "the grids behind the paper's tables and figures"),
    "inspect": Command("raysp.deploy.inspection", "what raysp sees of a network, your own too, before anything is trained"),
    "report": Command("analysis.report.__main__", "tables, pictures and a page of what sweeps have trained"),
    "pi": Command("raysp.pi.__main__", "measure, calibrate, predict: what private inference takes"),
    "export": Command("raysp.deploy.cli", "take a trained model away, as ONNX or torch.export"),
    "doctor": Command("raysp.command.doctor", "what is here, and what will not work; for a bug report"),
}
"""Every command by its words; adding an entry adds a command."""

HELP = {"-h", "--help"}
FLAGS = {"-h, --help": "this list; behind a command, its flags", "--version": "the version"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the command, and let it parse the rest, do its work and exit."""
    shield(anywhere=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    for words in (1, 2):
        name = " ".join(given[:words])
        if name in COMMANDS:
            import_module(COMMANDS[name].module).main(given[words:], f"raysp {name}")
    if given == ["--version"]:
        print(f"raysp {__version__}")
    elif not given or given[0] in HELP or (given[0] == "sweep" and not HELP.isdisjoint(given[1:2])):
        print(_help("sweep" if "sweep" in given[:2] else ""))
    else:
        print(f"error: {_unknown(given)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if given else 2)


def _help(group: str) -> str:
    """The commands, or those of a group, a line each."""
    lines = {name: command.summary for name, command in COMMANDS.items() if name.startswith(group)} | FLAGS
    width = max(map(len, lines))
    told = "Trains networks with few ReLUs and little depth for private inference, and sweeps the choices over a Ray cluster."
    usage = f"usage: raysp {f'{group} ...' if group else 'COMMAND ...'}"
    return "\n".join([usage, "", told, "", *(f"  {name:{width}}  {said}" for name, said in lines.items())])


def _unknown(given: Sequence[str]) -> str:
    """What is wrong with words that name no command, and what there is."""
    sweeps = [name.removeprefix("sweep ") for name in COMMANDS if name.startswith("sweep ")]
    firsts = list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))
    if given == ["sweep"]:
        return f"raysp sweep needs one more word; expected one of {', '.join(sweeps)}"
    before, known = ("raysp sweep", sweeps) if given[0] == "sweep" else ("raysp", firsts)
    wrong = given[1] if given[0] == "sweep" else given[0]
    meant = {word: f"{before} {word}" for word in (*known, "--help", "--version")}
    if before == "raysp":
        meant |= {word: f"raysp sweep {word}" for word in sweeps}
    near = get_close_matches(wrong, meant, 1)
    guess = f"did you mean {meant[near[0]]}? There is: " if near else "expected one of "
    return f"there is no {before} {wrong}; {guess}{', '.join(known)}"
