"""The tables of the reference, made from the code: flags from the commands' dataclasses, columns from `analysis.columns`, presets
and the paper's figures from where they are used. So they can't differ from it.

Needs no documentation tool. `update.py` writes the tables into the pages; a test, and each build of the site, compare.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysp.stages.presets import Preset


@dataclass(frozen=True, kw_only=True)
class Command:
    """A dataclass of flags."""

    name: str
    """As one calls it."""
    flags: str
    """Module and name of the dataclass."""

    def load(self) -> type[Any]:
        """The dataclass."""
        module, name = self.flags.rsplit(".", 1)
        return typing.cast(type[Any], getattr(importlib.import_module(module), name))


COMMANDS = (
    Command(name="raysp sweep budget|threshold|schedule|ac|mask", flags="sweeps.flags.SweepFlags"),
    Command(name="raysp sweep paper", flags="sweeps.paper.PaperFlags"),
    Command(name="every sweep", flags="sweeps.flags.RunFlags"),
    Command(name="raysp inspect", flags="raysp.deploy.inspection.InspectFlags"),
    Command(name="raysp report", flags="analysis.report.flags.ReportFlags"),
    Command(name="raysp export", flags="raysp.deploy.cli.ExportFlags"),
    Command(name="raysp pi measure", flags="raysp.pi.flags.Measure"),
    Command(name="raysp pi calibrate", flags="raysp.pi.flags.Calibrate"),
    Command(name="raysp pi predict", flags="raysp.pi.flags.Predict"),
    Command(name="raysp doctor", flags="raysp.command.doctor.DoctorFlags"),
)
"""Every command that has flags. Flags that several share are a command of their own here."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag, as a reader needs it."""

    name: str
    """With its dashes; of an argument without a flag what stands for it."""
    values: str
    default: str
    is_said: bool
    """Whether the default is said in words."""
    meaning: str


def flags_of(command: Command) -> list[Flag]:
    """A command's own flags, in the order of `--help`; those of a dataclass within are that one's."""
    kind = command.load()
    hints = typing.get_type_hints(kind, include_extras=True)
    meanings = field_docstrings(kind)
    return [
        _flag(field, hints[field.name], meanings.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if not dataclasses.is_dataclass(hints[field.name])
    ]


def field_docstrings(kind: type[Any]) -> Mapping[str, str]:
    """The string below each field of a dataclass, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr)):
            continue
        if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            found[before.target.id] = " ".join(after.value.value.split())
    return found


def _flag(field: "dataclasses.Field[Any]", hint: Any, meaning: str) -> Flag:
    metavar, said, positional = "", None, False
    for note in _notes(hint):
        metavar = getattr(note, "metavar", None) or metavar
        if isinstance(getattr(note, "help_behavior_hint", None), str):
            said = note.help_behavior_hint
        positional = positional or "POSITIONAL" in repr(note).upper()
    default = "" if said is None else said.removeprefix("(default: ").removesuffix(")")
    if said is None:
        no_default = field.default is dataclasses.MISSING
        default = "" if positional and no_default else "required" if no_default else _shown(field.default)
    values = metavar or _values(hint)
    name = values if positional and metavar else f"--{field.name.replace('_', '-')}"
    if positional and not metavar:
        name, values = values, ""
    in_words = (said is not None and " " in default) or default == "required"
    return Flag(name=name, values="" if positional else values, default=default, is_said=in_words, meaning=meaning)


def _notes(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is typing.Annotated:
        yield from hint.__metadata__
        yield from _notes(typing.get_args(hint)[0])


def _values(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _values(parts[0])
    if origin is typing.Literal:
        return "|".join(map(str, parts))
    if origin in (types.UnionType, typing.Union):
        return "|".join(filter(None, (_values(part) for part in parts if part is not type(None))))
    if origin is tuple:
        return f"{_values(parts[0])} ..."
    if hint is bool:
        return ""
    return {"int": "NUMBER", "float": "NUMBER", "str": "TEXT"}.get(hint.__name__, hint.__name__.upper())


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "off" if not default else "on"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def _cell(text: str) -> str:
    parts = text.replace("|", "\\|").replace("\n", " ").split("`")
    return "`".join(part if n % 2 else part.replace("<", "&lt;") for n, part in enumerate(parts))  # not within code


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(headings), " | ".join("---" for _ in headings)]
    lines += [" | ".join(map(_cell, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _each(values: str) -> str:
    """Values with bars between them as code each: a bar within code is read differently by every Markdown."""
    several = values.removesuffix(" ...")
    return ", ".join(map(_code, several.split("|"))) + (" ..." if several != values else "")


def commands_table() -> str:
    """The commands, as Markdown."""
    from raysp.command.table import COMMANDS as BY_NAME

    rows = [[_code(f"raysp {name}"), command.summary] for name, command in BY_NAME.items()]
    return _table(["command", "what it does"], [*rows, [_code("raysp --version"), "the version"]])


def flags_table(name: str) -> str:
    """The flags of the command of this name, as Markdown."""
    command = next(command for command in COMMANDS if command.name == name)
    rows = []
    for flag in flags_of(command):
        default = flag.default if flag.is_said else _code(flag.default)
        rows.append([f"{_each(flag.name)} {_each(flag.values)}".strip(), flag.meaning, default])
    return _table(["flag", "what it does", "default"], rows)


def columns_table(name: str) -> str:
    """The columns of the file of this name, as Markdown."""
    from analysis.columns import FILES

    file = next(file for file in FILES if file.name == name)
    kind = "column" if name.endswith(".csv") else "field"
    return _table([kind, "meaning"], [[_code(column), meaning] for column, meaning in file.columns.items()])


def files_table() -> str:
    """Every file of a results directory, as Markdown."""
    from analysis.columns import FILES

    rows = [[", ".join(_code(name.strip()) for name in file.name.split(", ")), file.what] for file in FILES]
    return _table(["file", "what it holds"], rows)


def _gates_of(preset: "Preset") -> str:
    if losses := preset.axes.get("gate_loss"):
        return " ".join(f"lose {nats:g}" for nats in losses)
    return "d_th " + " ".join("none" if d is None else f"{d:g}" for d in preset.axes["d_th"])


def presets_table() -> str:
    """The presets side by side, as Markdown."""
    from raysp.stages.presets import PRESETS

    rows = []
    for preset in PRESETS.values():
        ranks = "mask_method" in preset.axes
        between = [preset.ranking] if ranks else [preset.sensitivity, preset.mask]
        recipes = [preset.baseline, *between, preset.rewind if ranks else preset.finetune]
        rows.append(
            [
                _code(preset.name),
                f"{preset.dataset}, {preset.model} of width {preset.width}",
                ", ".join(str(recipe.epochs) for recipe in recipes),
                " ".join(f"{budget:,g}" for budget in preset.axes["budget"]),
                _gates_of(preset),
                " ".join("+".join(map(str, placement)) or "none" for placement in preset.axes["ac_after"]),
                f"{preset.rewind_beta if ranks else preset.beta:g}",
                preset.selection,
            ]
        )
    heads = [
        "preset",
        "data, network",
        "epochs: baseline, ranking or else sensitivity and mask, fine-tuning",
        "budgets",
        "gates",
        "AC after",
        "β",
    ]
    return _table([*heads, "selected on"], rows)


def models_table() -> str:
    """The networks with what they cost at full size, as Markdown."""
    import torch

    from raysp.models import MODELS, build_model
    from raysp.models.costs import count_costs

    rows = []
    for name, architecture in MODELS.items():
        with torch.device("meta"):
            costs = count_costs(build_model(name, num_classes=100))
        macs = f"{costs.macs / 1e6:,.1f} M"
        stages = str(len(architecture.convs_per_stage))
        rows.append([_code(name), str(architecture.default_width), stages, f"{costs.relus:,}", macs, str(costs.depth)])
    return _table(["model", "full width", "stages", "ReLUs", "MACs", "depth"], rows)


def paper_tables() -> str:
    """What the paper prints in its Tables 1 and 2, as Markdown."""
    from analysis.published import TABLE1, TABLE2

    parts = []
    for title, printed in (("Table 1: gated branching", TABLE1), ("Table 2: with an auxiliary classifier", TABLE2)):
        rows = []
        for row in printed:
            relus = "" if row.relus is None else f"{row.relus:,.0f}"
            gated = "yes" if row.gated else "no"
            figures = [f"{row.accuracy:.2f}", str(row.depth), f"{row.mac_saving:.2f}x", f"{row.relu_reduction:.2f}x"]
            rows.append([f"{row.model}, {row.dataset}", gated, row.exit, relus, *figures])
        heads = ["network", "gated", "exit", "ReLUs", "accuracy, %", "depth", "MAC saving", "ReLU reduction"]
        parts.append(f"**{title}**\n\n{_table(heads, rows)}")
    return "\n\n".join(parts)


GENERATED: Mapping[str, Callable[..., str]] = {
    "commands": commands_table,
    "flags": flags_table,
    "columns": columns_table,
    "files": files_table,
    "presets": presets_table,
    "models": models_table,
    "paper-tables": paper_tables,
}
"""What stands between `<!-- generated: NAME ARGUMENT -->` and `<!-- end -->` in a page."""

_GENERATED = re.compile(r"(<!-- generated: (\S+)(?: ([^\n]+?))? -->\n).*?(<!-- end -->)", re.S)


def with_tables(text: str) -> str:
    """A page's text with its tables as they should be."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{GENERATED[found[2]](*filter(None, [found[3]]))}\n\n{found[4]}"

    return _GENERATED.sub(table, text)
