"""`raysp doctor` on machines that lack things."""

import os
import subprocess
import sys

import pytest

from raysp import __version__
from raysp.command import doctor, packages, programs
from raysp.command.doctor import page
from raysp.command.programs import browser_of, compiler_of
from raysp.engine.surroundings import cpus

LINES = ["raysp", "python", "system", "packages", "extras", "CPUs", "memory", "shared", "home", "here", "Ray", "GPUs", "compiler"]


def program(directory, name, script):
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="as it is"),
        pytest.param({"PATH": "", "HOME": "/proc/none"}, id="no path, no home that can be written"),
        pytest.param({"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, id="ASCII"),
        pytest.param({"TMPDIR": "/proc/none", "RAY_ADDRESS": "127.0.0.1:1"}, id="no temporary directory, no cluster"),
        pytest.param({"COLUMNS": "no number", "CXX": "/proc/none"}, id="nonsense"),
    ],
)
def test_it_ends_with_0_and_a_page(environ, tmp_path):
    environ = {**os.environ, **environ}
    done = subprocess.run(
        [sys.executable, "-m", "raysp", "doctor"], capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told = [line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith("will not work")]
    assert told[: len(LINES)] == LINES
    assert list(tmp_path.iterdir()) == []


def test_cpus_for_ray_start():
    command = [sys.executable, "-m", "raysp", "doctor", "--cpus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{cpus().whole}\n", "")


def test_a_page_that_nobody_reads_ends_with_0():
    reader, writer = os.pipe()
    os.close(reader)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(writer, "w") as out:  # noqa: PTH123
        command = [sys.executable, "-m", "raysp", "doctor"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environ, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_torch_that_cannot_be_imported_leaves_the_version(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_commit", lambda: 1 / 0)
    assert next(page(tmp_path)).startswith(f"raysp      {__version__}, in ")


def test_nobody_without_a_name_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    lines = list(page(tmp_path, {"PATH": ""}))
    assert "home       unknown, not writable" in lines
    assert "will not work: ~ in paths, because HOME isn't set, and the system knows no home of this user; set HOME" in lines


def test_a_file_in_the_way_of_a_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "ray.py").touch()
    monkeypatch.chdir(tmp_path)
    said = f"{tmp_path / 'ray.py'} would be imported in place of the package ray; rename it, or work in another directory"
    assert f"will not work: a sweep from this directory, because {said}" in list(page(tmp_path))


def test_a_directory_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    lines = list(page(tmp_path))
    assert "here       unknown" in lines
    said = "torch can't be imported: the current directory was removed; go to another one"
    assert f"will not work: all that trains, because {said}" in lines


@pytest.mark.parametrize(("flags", "first"), [((), "raysp "), (("--cpus",), str(cpus().whole))])
def test_torch_does_not_end_it_in_a_directory_that_is_gone(flags, first, tmp_path):
    (tmp_path / "here").mkdir()
    line = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "here")]
    line += [sys.executable, "-m", "raysp", "doctor", *flags]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(first)


@pytest.mark.parametrize("name", ["look", "gpus_here", "compiler_of", "browser_of"])
def test_probes_that_fail_leave_the_rest(name, tmp_path, monkeypatch):
    if name == "look":
        monkeypatch.setattr("raysp.engine.surroundings.can_write", lambda path: True)
        monkeypatch.setattr("raysp.engine.surroundings.ray_token", lambda *arguments: 1 / 0)
    else:
        monkeypatch.setattr(doctor, name, lambda *arguments: 1 / 0)
    lines = list(page(tmp_path))
    assert [line.split()[0] for line in lines[: len(LINES)]] == LINES


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    there = packages.is_there
    monkeypatch.setattr(packages, "is_there", lambda name: name not in ("s3fs", "optuna", "ray", "onnx") and there(name))
    lines = list(page(tmp_path, {"PATH": "", "HOME": str(tmp_path)}))
    assert next(line for line in lines if line.startswith("extras")).startswith("extras     s3 no, ")
    for said in (
        "will not work: a sweep without --inline, because ray isn't installed; pip install ray",
        "will not work: results on S3 (--storage s3://...), because s3fs is missing; pip install -e '.[s3]' where raysp lies",
        "will not work: --search optuna, because optuna is missing; pip install -e '.[search]' where raysp lies",
        "will not work: --compile, because there is no C++ compiler on the path; install g++, or set CXX",
        "will not work: looking at report.html here, because there is no browser; copy it to a machine that has one",
    ):
        assert said in lines


@pytest.mark.parametrize(
    ("script", "torch", "told", "trouble"),
    [
        (
            "echo 'H100, 81559 MiB, 580.65'",
            (1, "13.0"),
            "H100, 81559 MiB, driver 580.65; torch (CUDA 13.0) finds 1",
            None,
        ),
        (
            "echo 'H100, 81559 MiB, 470.1'",
            (0, "13.0"),
            "H100, 81559 MiB, driver 470.1; torch (CUDA 13.0) finds 0",
            "training on the GPU, because torch, built for CUDA 13.0, finds none with driver 470.1",
        ),
        ("exit 9", (0, "13.0"), "nvidia-smi is missing, or doesn't answer; torch (CUDA 13.0) finds 0", None),
        ("echo No devices were found", (0, ""), "none; torch (CUDA no) finds 0", None),
        ("sleep 30", (0, ""), "nvidia-smi is missing, or doesn't answer; torch (CUDA no) finds 0", None),
        (
            "exit 9",
            (None, "OSError: libcudart.so"),
            "nvidia-smi is missing, or doesn't answer; torch can't be asked",
            "all that trains, because torch can't be imported: OSError: libcudart.so",
        ),
    ],
    ids=["one", "old driver", "driver broken", "none", "hangs", "torch broken"],
)
def test_gpus(script, torch, told, trouble, tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(programs, "PATIENCE_S", 0.5)
    monkeypatch.setattr(programs, "_asked_torch", lambda: torch)
    pipes = tmp_path / "mps"
    pipes.mkdir()
    lines = list(page(tmp_path, {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(pipes)}))
    assert f"GPUs       {told}; MPS off" in lines
    (pipes / "control").touch()
    assert any(line.endswith(f"MPS at {pipes}") for line in page(tmp_path, {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(pipes)}))
    assert trouble is None or any(line.startswith(f"will not work: {trouble}") for line in lines)


def test_compiler_and_browser(tmp_path):
    path = {"PATH": str(tmp_path)}
    assert compiler_of(path) is None and browser_of(path) is None
    clang = program(tmp_path, "clang++", "echo clang version 17.0.6")
    firefox = program(tmp_path, "firefox", "")
    assert compiler_of(path) == f"{clang} 17.0.6" and browser_of(path) == str(firefox)
    mine = program(tmp_path, "mine", "exit 1")
    assert compiler_of({**path, "CXX": str(mine)}) == str(mine)
    assert browser_of({**path, "BROWSER": "none:mine"}) == str(mine)


def test_no_secret_is_told(tmp_path):
    secrets = {"RAY_AUTH_TOKEN": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret", "https_proxy": "http://me:s3cret@host", "PATH": ""}
    told = "\n".join(page(tmp_path, secrets))
    assert "s3cret" not in told
    assert "AWS_SECRET_ACCESS_KEY, RAY_AUTH_TOKEN, https_proxy" in told
