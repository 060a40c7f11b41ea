"""The command line as a user meets it."""

import sys
from collections import defaultdict

import pandas as pd
import pytest
from commands import TINY, sweep, sweep_here

from raysp.engine.calibration import Calibration
from raysp.engine.sweep import BrokenOff
from raysp.store.location import Unreachable
from sweeps.cli import sweep as sweep_script


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "0"], "budget 0; expected ReLU units from 2 to 8704"),
        (["--budgets", "-5"], "budget -5"),
        (["--budgets", "99999999"], "above the network's 8704 ReLUs"),
        (["--budgets", "12.5"], "expected a whole number"),
        (["--budgets", "many"], "budget 'many'; expected ReLU units (24900, or 24.9k), or a share"),
        (["--budgets", "1K"], "budget '1K'"),
        (["--budgets", "1k", "9k"], "budget 9000 is above the network's 8704 ReLUs"),
        (["--budgets", "1.2345k"], "budget 1234.5; expected a whole number"),
        (["--budgets", "nan"], "budget nan"),
        (["--d-th", "1.5"], "d_th is 1.5; expected a share from 0 to 1"),
        (["--d-th", "-0.1"], "d_th is -0.1"),
        (["--ac-after", "4"], "expected a stage from 1 to 3"),
        (["--ac-after", "0"], "expected a stage from 1 to 3"),
        (["--ac-after", "2+x"], "ac_after '2+x'; expected a stage (3), several in one model (2+3), or none"),
        (["--ac-after", "2+2"], "ac_after '2+2'"),
        (["--ac-after", "3", "2+9"], "auxiliary classifier after stage 9"),
        (["--ac-after", "-1"], "ac_after"),
        (["--ac-head", "wide"], "bottleneck"),
        (["--ac-init", "zero"], "fit"),
        (["--ac-end", "zero"], "trained"),
        (["--mask-method", "best"], "counterfactual"),
        (["--granularity", "layer"], "channel"),
        (["--granularity", "channel", "--image-size", "16", "--budgets", "3"], "budget 3 by channel; expected at least 4"),
        (["--gb-init", "zero"], "least-squares"),
        (["--mask-start", "zero"], "scratch"),
        (["--mask-method", "senet", "--density", "0"], "density is 0; expected a share above 0 and below 1"),
        (["--mask-method", "senet", "--density", "0.95"], "max_density is 0.93; expected at least the density"),
        (["--kernel-size", "4"], "3"),
        (["--gate-epochs", "16"], "gate_epochs is 16; expected 0 to 15"),
        (["--gate-epochs", "-1"], "gate_epochs is -1"),
        (["--gate-blocks", "-1"], "gate_blocks is -1"),
        (["--gate-blocks", "9"], "gate_blocks 9; expected 0 to 8, the blocks of resnet18"),
        (["--gate-blocks", "3", "--d-th", "0.1"], "--gate-blocks with thresholds"),
        (["--gate-loss=-1"], "gate_loss is -1; expected at least 0 nats"),
        (["--gate-loss", "nan"], "gate_loss is nan"),
        (["--gate-loss"], "--gate-loss has no value"),
        (["--gate-loss", "0.1", "--gate-blocks", "3"], "--gate-loss with --gate-blocks; expected one of them"),
        (["--gate-loss", "0.1", "--d-th", "0.1"], "--gate-loss with thresholds"),
        (["--max-seconds", "20", "--d-th", "0.1"], "--max-seconds with thresholds"),
        (["--max-seconds", "20", "--gate-blocks", "3"], "--max-seconds with --gate-blocks; expected one of them"),
        (["--max-seconds=-1"], "--max-seconds '-1'; expected seconds above 0, such as 20"),
        (["--max-seconds", "0"], "--max-seconds '0'; expected seconds above 0"),
        (["--max-seconds", "soon"], "--max-seconds 'soon'; expected seconds above 0"),
        (["--max-seconds"], "--max-seconds has no value"),
        (["--max-seconds", "20", "--link"], "--link has no value"),
        (["--max-seconds", "20", "--link", "fast"], "link 'fast'; expected lan, wan, or a bandwidth above 0"),
        (["--max-seconds", "nan"], "--max-seconds 'nan'; expected seconds above 0"),
        (["--max-seconds", "inf"], "--max-seconds 'inf'; expected seconds above 0"),
        (["--max-seconds", "20", "--link", "0mbit,1ms"], "link '0mbit,1ms'; expected lan, wan, or a bandwidth above 0"),
        (["--max-seconds", "20", "--link", "1mbit,-1ms"], "link '1mbit,-1ms'; expected"),
        (["--costs", "relus", "relus"], "costs relus relus; expected one or more, each once"),
        (["--calibration", "."], "not a plain file; expected a file that `raysp pi calibrate` wrote"),
        (["--calibration", "file"], "file: not a calibration"),
        (["--link", "wan"], "--link without --max-seconds or --costs pred_link_s, to which it belongs"),
        (["--costs", "relus", "bytes"], "cost 'bytes'; expected of: relus, macs, depth, pred_time_s"),
        (["--costs", "pred_link_s"], "--costs pred_link_s with --link none; expected one link"),
        (["--costs", "pred_link_s", "--max-seconds", "9", "--link", "lan", "wan"], "with --link lan wan; expected one link"),
        (["--costs"], "--costs has no value"),
        (["--calibration"], "--calibration has no value"),
        (["--calibration", "none.json"], "none.json; expected a file that `raysp pi calibrate` wrote"),
        (["--density", "0.2"], "--density with mask method taylor, to which it means nothing; expected --mask-method senet or"),
        (["--mask-start", "scratch"], "--mask-start with mask method taylor, to which it means nothing"),
        (["--pram", "eq3"], "eq2"),
        (["--beta", "-1"], "beta is -1"),
        (["--beta", "1e300"], "beta is 1e+300; expected 0 to 1e+09"),
        (["--d-th", "None"], "None"),
        (["--width", "None"], "None is not a value"),
        (["--model", ""], "--model is empty"),
        (["--dataset", "imagefolder:"], "expected imagefolder:PATH"),
        (["--budgets", "1.0"], "budget 1 could be one ReLU or all of them; give 8704 for all"),
        (["--sensitivity", "file", "--density", "0.2"], "expected one of them"),
        (["--beta", "nan"], "beta is nan"),
        (["--selection", "train"], "val"),
        (["--sensitivity", "missing.json"], "missing.json; expected a file of sensitivities"),
        (["--sensitivity", "file"], "/file: it is no JSON: line 1, column 1; expected JSON: an object of ReLU layers"),
        (["--sensitivity", "/dev/zero"], "/dev/zero can't be read: not a plain file; expected a file of sensitivities"),
        (["--baseline", "/dev/zero"], "/dev/zero can't be read: not a plain file; expected a file of weights"),
        (["--baseline", "file"], "neither safetensors nor a file of torch.save that holds weights alone; expected model.state"),
        (
            ["--calibration", "/dev/zero"],
            "/dev/zero can't be read: not a plain file; expected a file that `raysp",
        ),
        (["--storage", "x" * 300], "a name in it has 300 bytes"),
        (["--dataset", "huggingface:a--b"], "the Hub has no such names"),
        (["--mask-method"], "--mask-method has no value"),
        (["--seeds"], "--seeds has no value"),
        (["--preset", "fast"], "quick"),
        (["--gamma", "square"], "cosine"),
        (["--model", "resnet19"], "expected one of resnet18, resnet34, wrn22-8, vgg16"),
        (["--dataset", "mnist"], "expected one of digits"),
        (["--dataset", "imagefolder:/nowhere"], "/nowhere"),
        (["--seeds", "-1"], "seed -1"),
        (["--epochs-scale", "0"], "epochs scale 0"),
        (["--image-size", "9"], "multiple of 8"),
        (["--image-size", "0"], "image size 0"),
        (["--width", "0"], "error: width 0; expected 1 to 4096 channels"),
        (["--epochs-scale", "1e308"], "epochs scale 1e+308"),
        (["--gpus-per-stage", "inf"], "gpus_per_stage is inf"),
        (["--gpus-per-stage", "nan"], "gpus_per_stage is nan"),
        (["--gpus-per-stage", "auto"], "gpus_per_stage is auto, and inline; expected one of them"),
        (["--gpus-per-stage", "most"], "auto"),
        (["--budgets"], "--budgets has no value"),
        (["--threads-per-stage", "100000"], "threads_per_stage is 100000"),
        (["--width", "1000000"], "width 1000000"),
        (["--image-size", "1000000"], "image size 1000000"),
        (["--address", "nowhere:1"], "inline runs without Ray"),
        (["--preset", "cifar10", "--data-dir", "file"], "file is not a directory"),
        (["--max-concurrent", "0"], "max_concurrent is 0"),
        (["--gpus-per-stage", "-1"], "gpus_per_stage is -1"),
        (["--workers-per-stage", "0"], "workers_per_stage is 0"),
        (["--workers-per-stage", "2"], "inline is one process"),
        (["--retries", "-1"], "retries is -1"),
        (["--storage", "nonsense://x"], "nonsense:// can't be written"),
        (["--storage", "s3://"], "storage s3:// names no place"),
        (["--storage", ""], "--storage is empty"),
        (["--storage", "/"], "storage / is the whole disk; expected a directory of its own"),
        (["--storage", "file:///"], "storage / is the whole disk"),
        (["--threads-per-stage", "0"], "threads_per_stage is 0"),
        (["--storage", "file"], "file is not a directory"),
        (["--storage", "/proc/results"], "/proc/results"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["budget_sweep.py", "--inline", *arguments])
    with pytest.raises(SystemExit) as stopped:
        sweep_script("test")
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in " ".join((printed.err + printed.out).split())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [BrokenOff("OSError: No space left"), Unreachable("s3://x can't be reached")])
def test_what_breaks_a_run_off_ends_with_1_and_says_how_to_go_on(error, tmp_path, monkeypatch, capsys):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr("sweeps.running.run_sweep", broken)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["budget_sweep.py", "--inline"])
    with pytest.raises(SystemExit) as stopped:
        sweep_script("test")
    assert stopped.value.code == 1
    assert f"{error}; the same command goes on from the last checkpoints" in capsys.readouterr().err.replace("\n", " ")


def test_the_exit_status_is_the_programs(tmp_path):
    done = sweep("--budgets", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: budget 0; expected ReLU units from 2 to 8704")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "2 sensitivities; expected 17"),
        ('{"stem_relu": "high"}', "'stem_relu' is 'high'; expected a finite number of at least 0"),
        ("3", "holds something else"),
        ("[]", "holds something else"),
        ("[1, -1]", "'number 2' is -1"),
        ("[NaN]", "'number 1' is nan"),
        ("[0, 0]", "all are 0"),
        ('{"a": 1, "a": 2}', "a name stands in it twice"),
        ('{"a": 1}', "unknown 'a'"),
    ],
)
def test_bad_sensitivity_files_are_refused(content, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.json").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["budget_sweep.py", "--plan", "--sensitivity", "mine.json"])
    with pytest.raises(SystemExit) as stopped:
        sweep_script("test")
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


PLANS = [
    ("schedule_sweep", ["--d-th", "none"], "4 configurations from 6 stages"),
    ("ac_sweep", [], "16 configurations from 22 stages"),
    ("mask_sweep", [], "20 configurations from 39 stages"),
    ("threshold_sweep", [], "20 configurations from 22 stages"),
    ("schedule_sweep", [], "16 configurations from 22 stages"),
    ("ac_sweep", ["--model", "wrn22-8"], "8 configurations from 14 stages"),
    ("paper", ["table1"], "8 configurations from 18 stages"),
    ("paper", ["table2"], "2 configurations from 8 stages"),
    ("paper", ["fig1"], "2 configurations from 5 stages"),
    ("paper", ["fig2"], "4 configurations from 6 stages"),
    ("paper", ["table1", "--preset", "quick"], "8 configurations from 16 stages"),
    ("paper", ["fig2", "--preset", "quick", "--seeds", "0", "1"], "8 configurations from 12 stages"),
    ("budget_sweep", ["--budgets", "0.1", "0.2", "--gamma", "linear", "cosine"], "4 configurations from 8 stages"),
    ("budget_sweep", ["--preset", "paper-resnet18-cifar10"], "8 configurations from 12 stages"),
    ("budget_sweep", ["--preset", "paper-resnet18-cifar100"], "12 configurations from 17 stages"),
    ("budget_sweep", ["--preset", "paper-wrn22-8-cifar100"], "2 configurations from 5 stages"),
    (  # another model takes its own width and last placement
        "budget_sweep",
        ["--preset", "cifar100", "--model", "wrn22-8", "--budgets", "1392640", "--dataset", "cifar100"],
        "1 configuration from 4 stages",
    ),
]


@pytest.mark.parametrize(("script", "arguments", "plan"), PLANS)
def test_every_sweep_plans_its_grid_and_runs_nothing(script, arguments, plan, tmp_path, monkeypatch, capsys):
    # Trying some steps of networks at the paper's size takes most of a minute; the tests below do that.
    seconds = {"seconds": defaultdict(lambda: 60.0)}
    monkeypatch.setattr("raysp.engine.forecast.calibrate", lambda *given, **options: Calibration(**seconds))
    done = sweep_here("--plan", *arguments, cwd=tmp_path, script=script, monkeypatch=monkeypatch, capsys=capsys)
    assert done.returncode == 0, done.stderr
    assert plan in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_budgets_with_a_letter_are_those_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "raysp.engine.forecast.calibrate", lambda *given, **options: Calibration(seconds=defaultdict(lambda: 1.0))
    )
    budgets = ["--budgets", "1.1k", "1100", "0.0087M", "8.7k", "0.1"]
    done = sweep_here("--plan", *budgets, cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert "5 combinations of the flags' values, 3 of them distinct" in " ".join(done.stdout.split())


@pytest.mark.parametrize(("script", "arguments", "plan"), PLANS[:3])  # the others are started by the tests below
def test_every_sweep_is_a_program(script, arguments, plan, tmp_path):
    done = sweep("--plan", *arguments, cwd=tmp_path, script=script)
    assert done.returncode == 0, done.stderr
    assert plan in done.stdout and "from some steps of each kind of stage" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_of_the_paper_is_tried_at_its_full_size_and_without_data(tmp_path, monkeypatch, capsys):
    # As few images as a batch can have: a trial of real length has 16 or more, and takes minutes for all stages of the preset.
    monkeypatch.setattr("raysp.engine.calibration.FEWEST", {False: 2, True: 2})
    monkeypatch.setattr("raysp.engine.calibration.TRIAL_S", {False: 0.0, True: 0.0})
    one = ["--preset", "paper-resnet18-cifar100", "--budgets", "49600", "--d-th", "0.05", "--ac-after", "3"]
    done = sweep_here("--plan", *one, "--gpus-per-stage", "0", cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert done.returncode == 0, done.stderr
    assert "1 configuration from 4 stages" in done.stdout and "from some steps of each kind of stage" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_one_sweep_has_trained_another_finds(tmp_path):
    assert sweep(*TINY, "--inline", cwd=tmp_path).returncode == 0
    again = sweep(*TINY, "--inline", "--ac-after", "3", "--gate-loss", "0.25", cwd=tmp_path, script="ac_sweep")
    assert again.returncode == 0
    assert again.stdout.count("found    ") == 4
    assert "all-ReLU" in again.stdout
    masks = sweep("fig2", "--preset", "quick", *TINY[:4], "--inline", cwd=tmp_path, script="paper")
    assert masks.returncode == 0
    assert "stages.3.1.outer_relu" in masks.stdout, "a sweep of masks shows their layers"
    assert masks.stdout.count("found    ") == 1, "the baseline; its masks are the paper's"


def test_a_limit_of_seconds_is_met_where_it_can_be_and_said_where_not(tmp_path, monkeypatch, capsys):
    asked = [*TINY, "--inline", "--max-seconds", "15", "5", "1", "--link", "wan", "--costs", "relus", "pred_link_s"]
    planned = sweep_here("--plan", *asked, cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    said = "the final exit is to take at most 15 s over wan; at most 5 s over wan; at most 1 s over wan (predicted)"
    assert planned.returncode == 0 and said in planned.stdout and "3 configurations from 6 stages" in planned.stdout
    ahead = [line.split() for line in planned.stdout.splitlines() if line.startswith("at most")]
    assert [line[2] for line in ahead] == ["15", "5", "1"] and all(line[6:8] == ["taylor", "435"] for line in ahead)
    outlooks = ["met, whatever the mask", "depends on the mask", "missed, whatever the mask"]
    assert [" ".join(line[-4:]) for line in ahead] == outlooks
    done = sweep(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note at most 1 s over wan is not to be met with 435 ReLUs: " in done.stdout
    assert "Fitted, because no calibration has them: conv" in done.stdout, "width 4 is nobody's"
    known = sweep_here("--plan", *asked, cwd=tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    table = pd.read_csv(tmp_path / "runs" / "quick" / "results.csv").query("exit == 'final'").set_index("max_seconds")
    assert set(table["link"].dropna()) == {"wan"} and table["gate_blocks"].isna().all()
    assert "pred. WAN s" in done.stdout, "the front at the end is of what was asked for"
    assert table.loc[15.0, "pred_wan_s"] <= 15 < table["pred_wan_s"].max()
    assert 8 < table.loc[15.0, "depth"] < 16 and table.loc[5.0, "depth"] == table.loc[1.0, "depth"] == 8
    assert table.loc[5.0, "pred_wan_s"] > 5
    for limit, outlook in ((15.0, "met"), (5.0, "missed"), (1.0, "missed")):
        (line,) = [line for line in known.stdout.splitlines() if line.startswith(f"at most {limit:g} s over wan")]
        assert f"{table.loc[limit, 'pred_wan_s']:.4g} s, {16 - table.loc[limit, 'depth']} gated" in line
        assert line.rstrip().endswith(f"gated  {outlook}")
    seconds = f"{table.loc[5.0, 'pred_wan_s']:.4g} s are predicted"
    missed = sorted(line for line in done.stdout.splitlines() if line.startswith("limit missed"))
    for line, limit in zip(missed, (1, 5), strict=True):
        assert f"at most {limit} s over wan: no choice of blocks that was found meets it; all that help are gated" in line
        assert seconds in line


@pytest.mark.parametrize(
    "how", [["--inline"], pytest.param(["--address", "local"], marks=pytest.mark.slow)], ids=["inline", "ray"]
)
def test_the_main_job_twice(how, tmp_path):
    small = ["--width", "4", "--epochs-scale", "0.1", "--budgets", "0.2"]
    first = sweep(*small, *how, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    root = tmp_path / "runs" / "quick"
    tables = {"results.csv", "results.parquet", "layers.csv", "pareto.csv", "tables.md", "tables.tex", "report.html"}
    drawn = ["pareto", "growth", "classes"]
    figures = {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert {path.name for path in root.iterdir()} == {".lock", "stages", "plans", *tables, *figures}
    results = (root / "results.csv").read_bytes()
    second = sweep(*small, *how, cwd=tmp_path)
    assert second.returncode == 0
    assert sum(line.startswith("found ") for line in second.stdout.splitlines()) == 4
    assert "done" not in second.stdout
    assert (root / "results.csv").read_bytes() == results
    assert first.stderr == second.stderr == ""
