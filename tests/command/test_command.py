"""`raysp`, the command: which one is meant, and by what name it is called."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import raysp
from raysp.command.table import COMMANDS, main

ROOT = Path(__file__).parents[2]


def call(*command, cwd, **more):
    environ = {**os.environ, "COLUMNS": "200", **more}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, timeout=300, env=environ)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_says_its_own_name(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(f"usage: raysp {name} "), said[:200]
    assert importlib.import_module(COMMANDS[name].module).__doc__


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "usage: raysp COMMAND"),
        (["--help"], 0, "sweep budget "),
        (["-h"], 0, "doctor "),
        (["--version"], 0, f"raysp {raysp.__version__}"),
        (["sweep", "--help"], 0, "sweep mask "),
        (["-h", "sweep"], 0, "usage: raysp sweep"),
        (["sweep", "-h", "mask"], 0, "sweep mask "),
        (["sweep"], 2, "raysp sweep needs one more word; expected one of budget, threshold, schedule, ac, mask, paper"),
        (["sweep", "--plan"], 2, "there is no raysp sweep --plan; expected one of budget"),
        (["sweap"], 2, "there is no raysp sweap; did you mean raysp sweep?"),
        (["budget"], 2, "there is no raysp budget; did you mean raysp sweep budget?"),
        (["sweep", "buget"], 2, "there is no raysp sweep buget; did you mean raysp sweep budget?"),
        (["--versoin"], 2, "there is no raysp --versoin; did you mean raysp --version?"),
        (["frobnicate", "--help"], 2, "there is no raysp frobnicate; expected one of sweep, inspect, report, pi, export, doctor"),
        (["pi"], 2, "measure, calibrate, predict"),
        (["pi", "mesure"], 2, "measure, calibrate, predict"),
        (["doctor", "--now"], 2, "--now"),
        (["sweep", "budget", "--budgetz", "3"], 2, "run raysp sweep budget --help"),
        (["sweep", "paper", "table3"], 2, "run raysp sweep paper --help"),
    ],
)
def test_slips_end_with_2_and_say_what_there_is(arguments, status, said, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == status
    assert said in " ".join((captured.out + captured.err).split())
    if status == 0:
        assert captured.err == ""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["-m", "raysp", "sweep", "budget"], "raysp sweep budget"),
        ([ROOT / "sweeps" / "budget_sweep.py"], "budget_sweep.py"),
        ([ROOT / "sweeps" / "paper.py"], "paper.py"),
        (["-m", "analysis.report"], "python -m analysis.report"),
        (["-m", "raysp.pi"], "python -m raysp.pi"),
        (["-m", "raysp.export"], "python -m raysp.export"),
    ],
)
def test_usage_shows_the_name_by_which_it_was_called(command, name, tmp_path):
    done = call(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.sub(r"\s+", " ", done.stdout).startswith(f"usage: {name} ")


def test_both_names_give_the_same_plan(tmp_path):
    one = call("-m", "raysp", "sweep", "threshold", "--plan", "--inline", "--storage", "x", cwd=tmp_path)
    other = call(ROOT / "sweeps" / "threshold_sweep.py", "--plan", "--inline", "--storage", "x", cwd=tmp_path)
    assert one.returncode == other.returncode == 0, one.stderr + other.stderr
    assert "20 configurations from 22 stages" in one.stdout and "20 configurations from 22 stages" in other.stdout


def test_what_goes_on_is_named_as_it_was_called(monkeypatch, capsys, tmp_path):
    def broken(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.running.run_sweep", broken)
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "budget", "--inline", "--storage", "a b"])
    assert stopped.value.code == 130
    said = "interrupted; the same command goes on from the last checkpoints: raysp sweep budget --inline --storage 'a b'\n"
    assert capsys.readouterr().err == said


def test_the_script_is_declared():
    (entry,) = re.findall(r'^raysp = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    module, _, function = entry.partition(":")
    assert getattr(importlib.import_module(module), function) is main


COMMANDS_THAT_TELL = [
    ("--help",),
    ("report", "--help"),
    ("sweep", "budget", "--help"),
    ("report",),
    ("sweep", "budget", "--wdth", "3"),
]


@pytest.mark.parametrize("to", ["/dev/full", "nobody", "no stream"])
@pytest.mark.parametrize("arguments", COMMANDS_THAT_TELL)
def test_who_stops_reading_gets_no_traceback(arguments, to, tmp_path):
    command = [sys.executable, "-m", "raysp", *arguments]
    if to == "/dev/full" and not Path(to).exists():
        pytest.skip("no device that is always full")
    if to == "no stream":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") if to == "nobody" else Path(to if to == "/dev/full" else os.devnull).open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60, check=False)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert done.returncode == (0 if "--help" in arguments else 2)


def test_what_an_encoding_lacks_is_escaped(tmp_path):
    done = call("-m", "raysp", "bär", cwd=tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2 and "there is no raysp b\\xe4r" in done.stderr


@pytest.mark.parametrize(
    "command", [("sweep", "budget", "--plan"), ("report", "x"), ("export", "x", "--format", "torch"), ("inspect", "vgg16")]
)
def test_a_directory_that_was_removed_is_told_before_torch_ends_the_process(command, tmp_path):
    (tmp_path / "here").mkdir()
    line = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "here"), sys.executable, "-m", "raysp", *command]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: the current directory was removed; go to another one\n")
