"""The reference pages: what is written has a sentence, and what is said of flags is what `--help` says."""

import dataclasses
import inspect
import json
import re
import sys
import typing
from pathlib import Path

import pandas as pd
import pytest
import tyro

import raysp
from analysis import columns, results, seeds
from analysis.predictions import PREDICTED
from raysp.methods.choices import WHICH_GATED
from raysp.stages.presets import PRESETS
from sweeps.flags import THE_PRESETS, SweepFlags

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import from_code

RECORDS = Path(__file__).parents[2] / "results/cifar100-width16"


def test_every_column_of_the_tables_has_a_sentence():
    assert set(columns.RESULTS) == {*results.COLUMNS, *results.MEASURED_PI, *PREDICTED}
    assert set(columns.RESULTS) | set(columns.LAYERS) >= set(results.LAYER_COLUMNS)
    assert set(columns.LAYERS) == {"mask_key"} | set(results.LAYER_COLUMNS) - set(columns.RESULTS)
    points = seeds.points_of(pd.DataFrame(columns=[*results.COLUMNS, *results.MEASURED_PI, *PREDICTED]))
    written = set(points) - {"seed_list", "key_list"}  # as `analysis.report` drops them
    assert written - set(columns.RESULTS) == set(columns.POINTS)


def test_every_column_of_the_kept_results_has_a_sentence():
    for name, known in (("results", columns.RESULTS), ("layers", columns.LAYERS), ("pareto", columns.POINTS)):
        written = set(pd.read_csv(RECORDS / f"{name}.csv"))
        assert written <= set(known) | set(columns.RESULTS), name


def test_every_field_of_a_record_has_a_sentence(tiny_sweep):
    for path in (tiny_sweep / "stages").glob("*/record.json"):
        assert set(json.loads(path.read_text())) == set(columns.RECORD)


def test_every_field_of_a_measurement_has_a_sentence(tiny_sweep):
    pytest.importorskip("spu")
    pytest.importorskip("jax")
    from raysp.pi import MeasureOptions
    from raysp.pi.stored import measure_stored

    directory = next((tiny_sweep / "stages").glob("finetune-*"))
    _, found = measure_stored(directory, exit="ac3", options=MeasureOptions(protocol="semi2k", warm=1))
    assert set(found) == set(columns.MEASUREMENT)


def test_every_file_of_a_results_directory_is_explained(tiny_sweep):
    known = {part.strip() for file in columns.FILES for part in file.name.split(",")}
    for path in tiny_sweep.iterdir():
        assert path.is_dir() or path.name in known or path.stem in {"fig1", "fig2a", "fig2b", "growth", "results"}, path


def test_of_the_flags_that_say_what_is_gated_those_name_a_preset_that_one_has():
    hints = typing.get_type_hints(SweepFlags, include_extras=True)
    naming = {name for name in WHICH_GATED if hints[name].__metadata__[0].help_behavior_hint == THE_PRESETS}
    assert naming == {name for name in WHICH_GATED if any(name in preset.axes for preset in PRESETS.values())}


@pytest.mark.parametrize("name", raysp.__all__)
def test_docstrings_of_the_python_interface_are_no_html(name):
    for text in {inspect.getdoc(getattr(raysp, name)) or "", *_docstrings_within(getattr(raysp, name))}:
        assert not re.search(r"<[a-z]", "".join(text.split("`")[::2])), text


def _docstrings_within(found):
    if inspect.isclass(found):
        yield from (inspect.getdoc(member) or "" for name, member in vars(found).items() if not name.startswith("_"))
        yield from from_code.field_docstrings(found).values()


@pytest.mark.parametrize("command", from_code.COMMANDS, ids=lambda command: command.name)
def test_flags_are_those_of_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tyro.cli(command.load(), args=["--help"], config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    flags = from_code.flags_of(command)
    for flag in flags:
        assert flag.meaning, f"{flag.name} has no sentence"
        assert flag.name.replace("|", ",") in shown
    within = [hint for hint in typing.get_type_hints(command.load()).values() if dataclasses.is_dataclass(hint)]
    others = {flag.name for kind in within for flag in from_code.flags_of(dataclasses.replace(command, flags=path_of(kind)))}
    listed = set(re.findall(r"^[│ ]*(?:-\w, )?(--[a-z][\w-]*)", shown, re.M)) - {"--help"}
    assert listed - others == {flag.name for flag in flags if flag.name.startswith("--")}


def path_of(kind):
    return f"{kind.__module__}.{kind.__qualname__}"
