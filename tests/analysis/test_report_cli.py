import subprocess
import sys

import pandas as pd
import pytest
from records import FILES, commit, row, stages

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
        (["empty", "--costs", "speed"], "objective 'speed'; expected of: val_accuracy"),
        (["empty", "--costs", "val_accuracy"], "expected columns that are to be small"),
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

    monkeypatch.setattr(command.time, "sleep", look_away)
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
