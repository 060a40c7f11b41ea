import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from records import FILES, commit, finished, row, stages

from raysp.store.manifest import manifest_of, write_manifest
from raysp.store.records import Store


def report_command(*arguments, cwd):
    command = [sys.executable, "-m", "analysis.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_the_command_writes_everything_and_says_what_qualifies(tmp_path):
    for n in range(4):
        commit(tmp_path / "run", [row(budget=n, relus=1000 * n, depth=10 + n, val_accuracy=70.0 + n)])
    done = report_command("run", "--out", "out", "--max-relus", "2.5k", "--max-depth", "12", "--min-accuracy", "70", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 qualify: val % at least 70, ReLUs at most 2,500, depth at most 12" in done.stdout
    assert done.stdout.index("72.00") < done.stdout.index("71.00")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES
    none = report_command("run", "--out", "out", "--min-accuracy", "75", cwd=tmp_path)
    assert none.returncode == 1
    assert "None qualifies" in none.stdout and "73.00" in none.stdout


def seeds(root):
    """Two models, one of two seeds, so that there is a spread to be told."""
    for seed in (0, 1):
        commit(root, [row(seed=seed, val_accuracy=70.0 + seed, relus=1000)])


def test_a_terminal_of_ascii_gets_all_and_statuses_stay(tmp_path, monkeypatch):
    seeds(tmp_path / "run")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = report_command("run", "--max-relus", "50", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, ""), "no model meets the limits"
    assert r"\xb1" in done.stdout


READERS = {"analysis.report": ("run", "--max-relus", "50k"), "raysp.pi": ("--help",), "raysp.export": ("--help",)}


@pytest.mark.parametrize("module", READERS)
def test_a_reader_that_goes_away_costs_the_lines_alone(module, tmp_path):
    seeds(tmp_path / "run")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:  # noqa: PTH123
        command = [sys.executable, "-m", module, *READERS[module]]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_reference_point_is_told_and_can_be_given(tmp_path, capsys):
    from analysis.report.__main__ import main

    root, plan = tmp_path / "run", stages(11, 12)
    with Store(root=root).lock() as store:
        write_manifest(store, manifest_of(list(plan.leaves.values()), "quick", "sweep"))
    whole, student = plan.leaves.values()
    commit(root, [row(mask_method="none", relus=1000)], of=whole)
    commit(root, [row(relus=100)], of=student)
    with pytest.raises(SystemExit) as stopped:
        main([str(root), "--reference", "relus=2k", "depth=32", "val_accuracy=40"])
    assert stopped.value.code == 0
    point = "reference point val % 40.00, ReLUs 2,000, MACs 1,100, depth 32."
    assert re.search(rf"Hypervolume on digits: 0\.\d{{4}}, {re.escape(point)}", capsys.readouterr().out)
    for name in ("tables.md", "report.html"):
        assert point in (root / name).read_text()
    with pytest.raises(SystemExit) as stopped:
        main([str(root), "--reference", "relus=1"])
    assert stopped.value.code == 0
    none = "No model of it is better than that in everything, so that none counts: give larger --reference."
    assert none in capsys.readouterr().out


@pytest.mark.parametrize("environ", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
@pytest.mark.parametrize("backend", ["nonsense", "module://matplotlib_inline.backend_inline"])
def test_a_path_that_is_no_text_and_a_shell_s_own_backend_do_no_harm(environ, backend, tmp_path):
    root = tmp_path / os.fsdecode(b"r\xff\xc3\xbc")
    commit(root, [row()])
    with Store(root=root).lock() as store:
        write_manifest(store, manifest_of(list(stages(0).leaves.values()), "quick", f"sweep --storage {root}"))
    command = [sys.executable, "-m", "raysp", "report", str(root)]
    environ = os.environ | environ | {"MPLBACKEND": backend}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environ, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"r\\udcff" in (root / "report.html").read_bytes() and b"udcff" in (root / "tables.md").read_bytes()


def test_limits_are_not_met_by_nothing(tmp_path):
    with Store(root=tmp_path / "run").lock() as store:
        write_manifest(store, manifest_of(list(stages(0).leaves.values()), "quick", "sweep"))
    assert report_command("run", cwd=tmp_path).returncode == 0
    assert report_command("run", "--max-depth", "12", cwd=tmp_path).returncode == 1


def test_nothing_is_written_where_there_is_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    done = report_command("run", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists() and not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one or more"),
        (["missing"], "missing is no results directory"),
        (["empty"], "no finished model in"),
        ([""], "name is empty"),
        (["empty", "--min-accuracy", "101"], "--min-accuracy 101; expected percent, at most 100"),
        (["swept/stages"], "expected a directory that a sweep has written to, such as "),
        (["file"], "file is no results directory"),
        (["empty", "."], "2 results directories and no --out"),
        (["empty", "--out", "file"], "file is no directory of its own"),
        (["empty", "--max-relus", "lots"], "--max-relus 'lots'; expected a number"),
        (["empty", "--max-relus=-5"], "--max-relus '-5'; expected a number"),
        (["empty", "--reference", "params=1"], "--reference params=1; expected COLUMN=NUMBER with one of val_accuracy, relus"),
        (["empty", "--reference", "relus"], "--reference relus; expected COLUMN=NUMBER"),
        (["empty", "--reference", "relus=1k", "relus=2k"], "relus was given before; expected each once"),
        (["empty", "--reference", "relus=" + "9" * 300], "expected at most 1e+18"),
        (["empty", "--reference", "macs=0"], "--reference macs=0; expected more than 0"),
        (["empty", "--reference", "val_accuracy=100"], "--reference val_accuracy=100; expected percent below 100"),
        (["empty", "--costs", "speed"], "objective 'speed'; expected of: val_accuracy"),
        (["empty", "--costs", "val_accuracy"], "expected what stands beside the accuracy that --selection names: worst_class"),
        (["empty", "--costs", "relus", "pi_time_s"], "no model here has pi_time_s"),
        (["empty", "--out", ""], "--out is empty"),
        (["empty", "--every", "0"], "--every 0; expected seconds"),
        (["foo://x"], "foo:// can't be written"),
    ],
)
def test_bad_input_to_the_command_ends_with_2(arguments, message, tmp_path, monkeypatch, capsys):
    from analysis.report.__main__ import main

    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "swept" / "stages").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in " ".join((captured.err + captured.out).split())
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("what", ["record.json", "plan", "error.txt", "rungs.json", "pi-final-cheetah.json"])
def test_a_file_that_cannot_be_read_is_named_and_the_report_goes_on(what, tmp_path, monkeypatch, capsys):
    from analysis.report.__main__ import main

    root = tmp_path / "run"
    finished(root, 1)(1.0, 1)
    finished(root, 2)
    plan = stages(3)
    with Store(root=root).lock() as store:
        write_manifest(store, manifest_of(list(plan.leaves.values()), "quick", "sweep"))
        (unfinished,) = map(store.directory, plan.stages.values())
    unfinished.mkdir()
    for name in ("error.txt", "rungs.json"):
        (unfinished / name).touch()
    locked = next(root.glob("plans/*.json" if what == "plan" else f"stages/*/{what}"))
    refuse(monkeypatch, lambda path: path == locked)
    with pytest.raises(SystemExit) as stopped:
        main([str(root)])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    named = locked.parent if locked.parent == unfinished else locked
    told = f"left out {named}: can't be read (Permission denied); make it readable, or move it out of the results directory"
    assert told in said and "Give the sweep's command again" not in said
    assert len(pd.read_csv(root / "results.csv")) == (1 if what == "record.json" else 2)


def refuse(monkeypatch, locked):
    """Lets files not be read, as where others have written them; root may read everything."""
    whole = Path.read_bytes

    def read(path):
        if locked(path):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read)


def test_a_report_of_nothing_but_files_that_cannot_be_read_is_refused(tmp_path, monkeypatch, capsys):
    from analysis.report.__main__ import main

    commit(tmp_path / "run", [row()])
    refuse(monkeypatch, lambda path: path.name == "record.json")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "run")])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "can't be read (Permission denied)" in said.out and "(1 records were left out)" in said.err


def test_a_damaged_record_is_named_with_what_to_do(tmp_path, capsys):
    from analysis.report.__main__ import main

    root = tmp_path / "run"
    commit(root, [row()])
    (commit(root, [row(budget=7)]) / "record.json").write_text("{")
    with pytest.raises(SystemExit) as stopped:
        main([str(root)])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "record.json: it is no JSON: line 1, column 2" in said and "Give the sweep's command again" in said


def test_watch_renews_until_it_is_stopped(tmp_path, monkeypatch, capsys):
    from analysis.report import command
    from analysis.report.__main__ import main

    root = tmp_path / "run"
    commit(root, [row()])
    page = tmp_path / "out" / "report.html"
    looks = []

    def look_away(seconds):
        looks.append((seconds, page.stat().st_mtime_ns))
        if len(looks) == 3:
            raise KeyboardInterrupt
        if len(looks) == 1:
            commit(root, [row(budget=7)])

    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=look_away))
    monkeypatch.setattr(sys, "argv", ["report", str(root), "--out", str(tmp_path / "out"), "--watch", "--every", "5"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130 and [seconds for seconds, _ in looks] == [5.0] * 3
    first, second, third = [written for _, written in looks]
    assert first < second == third, "written again only when something has changed"
    assert capsys.readouterr().out.count("models of") == 2
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == 2


def test_where_nothing_may_be_written_another_place_is_asked_for(tmp_path, monkeypatch, capsys):
    from analysis.report.__main__ import main

    monkeypatch.setattr("analysis.report.command.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 2
    assert f"no permission in {tmp_path}; give another directory with --out" in capsys.readouterr().err
