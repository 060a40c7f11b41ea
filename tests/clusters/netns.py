"""A sweep on a cluster of two hosts, one of which dies in the middle: are the results those of one machine?

    python tests/clusters/netns.py

Run as root, on Linux, with sshd, ssh, rsync (Debian: openssh-server, openssh-client, rsync), ip and unshare. Takes about 90 s.
An operator's machine and two hosts of one CPU each are made of namespaces (`machines.py`); `ray up` starts Ray on the hosts over
ssh, with token authentication; a sweep runs on both, and one loses its power while a stage runs on it.
Nothing of it stays (`apart.py`). Where machines can't be made it says `skipped: ...`, with status 0.
"""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress

from apart import run, say
from machines import (
    ADDRESS,
    HEAD,
    OPERATOR,
    PYTHON,
    REPO,
    UMASK,
    WORKER,
    Failed,
    Host,
    call,
    check,
    lay_wire,
    settle,
    wait_for,
    write_etc,
)

RAY = PYTHON.with_name("ray")
# Of two seeds, so that four stages can start at once: each host has another to do after its first.
SWEEP = ("sweeps/budget_sweep.py", "--width", "4", "--budgets", "0.2", "--seeds", "0", "1", "--gpus-per-stage", "0")
LIMIT_S = 600


def test(work):
    hosts = {}
    say("one machine: the sweep in one process, without Ray")
    with (work / "logs" / "one.log").open("w") as log:
        command = [sys.executable, *SWEEP, "--inline", "--storage", work / "one"]
        subprocess.run(command, cwd=REPO, stdout=log, stderr=log, timeout=LIMIT_S, check=True)
    write_etc(work)
    write_ssh(work / "etc")
    settle(work, OPERATOR)
    lay_wire()
    sshd = [shutil.which("sshd"), "-D", "-e", "-f", work / "etc" / "sshd_config"]
    try:
        for name in (HEAD, WORKER):
            hosts[name] = Host(work, name, sshd, 22)
        say("two hosts answer to ssh")
        compare(work, hosts)
    except (Failed, OSError, subprocess.SubprocessError):
        for name, host in hosts.items():
            with suppress(OSError):
                host.copy_ray_logs(work / "logs" / f"ray-{name}")
        raise


def write_ssh(etc):
    """Keys, and sshd's settings."""
    for key in ("host_key", "user_key"):
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", etc / key)
    keys = f"HostKey {etc}/host_key\nAuthorizedKeysFile {etc}/user_key.pub\nPermitRootLogin prohibit-password\n"
    (etc / "sshd_config").write_text(f"{keys}StrictModes no\nUsePAM no\nPidFile none\n")  # not strict: `etc` is below /tmp


def compare(work, hosts):
    logs, one, two = (work / name for name in ("logs", "one", "two"))
    cluster = write_cluster(work)
    call(RAY, "get-auth-token", "--generate")
    # The second version of Ray's autoscaler never starts Ray on this provider's workers.
    up = call(RAY, "up", "-y", "--no-config-cache", cluster, env={**os.environ, "RAY_UP_enable_autoscaler_v2": "0"})
    (logs / "ray-up.log").write_text(up)
    say("ray up is done")

    def on_head(*command):
        return [RAY, "exec", cluster, f"cd {shlex.quote(str(REPO))} && {shlex.join(command)}"]

    call(*on_head("python", "-c", UNTIL_BOTH))
    say("both hosts are in the cluster")
    check_token()
    with (logs / "two.log").open("w") as log:
        sweep = subprocess.Popen(on_head("python", *SWEEP, "--storage", str(two)), stdout=log, stderr=log)
    stage = wait_for("a stage done on the worker, and another begun", 240, lambda: caught(two, sweep))
    hosts[WORKER].lose_power()
    lost = not (two / "stages" / stage / "record.json").exists()
    say(f"the worker has lost its power in the middle of {stage}; {done_by(two)}")
    check(sweep.wait(240) == 0, f"the sweep ended with status {sweep.returncode}, see two.log")
    say(f"the sweep has gone on to its end; {done_by(two)}")
    check_results(one, two)
    if not lost:
        say(f"this proved less than it should: {stage} was done just before the worker's end")


UNTIL_BOTH = """
import time, ray
ray.init(address="auto", logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.2)
"""


def write_cluster(work):
    """The cluster file, as YAML that is JSON."""
    start = "ray start --num-cpus=1 --object-store-memory=100000000 --node-ip-address"
    as_head = "--head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --include-dashboard=false"
    # Ray takes a minute to believe in the death of a host that just says nothing; here that shall be quicker.
    quick = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=3"
    cluster = {
        "cluster_name": "netns",
        "provider": {"type": "local", "head_ip": ADDRESS[HEAD], "worker_ips": [ADDRESS[WORKER]]},
        "auth": {"ssh_user": "root", "ssh_private_key": str(work / "etc" / "user_key")},
        "file_mounts": {"~/.ray/auth_token": str(work / "home" / ".ray" / "auth_token")},
        "head_start_ray_commands": [f"{quick} {start}={ADDRESS[HEAD]} {as_head}"],
        "worker_start_ray_commands": [f"{start}={ADDRESS[WORKER]} --address=$RAY_HEAD_IP:6379"],
    }
    path = work / "home" / "cluster.yaml"
    path.write_text(json.dumps(cluster, indent=1))
    return str(path)


def check_token():
    """A client with the token is answered, one without is refused."""
    ask = (RAY, "health-check", "--address", f"{ADDRESS[HEAD]}:6379")
    call(*ask)
    without = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    refused = subprocess.run(ask, env=without, capture_output=True, text=True, timeout=60)
    check(refused.returncode and "token" in refused.stderr, f"without a token: {refused.returncode}, {refused.stderr[-3000:]}")
    say("a client without the token is refused")


def caught(storage, sweep):
    """Name of a stage that the worker has a checkpoint of and hasn't done, once it has done another."""
    check(sweep.poll() is None, f"the sweep ended with status {sweep.returncode} before the worker had done enough, see two.log")
    if not host_counts(storage)[WORKER]:
        return None
    for checkpoint in storage.glob("stages/*/checkpoint.safetensors"):
        with suppress(FileNotFoundError):  # done just now
            by_worker = checkpoint.stat().st_mode & 0o777 == 0o666 & ~UMASK[WORKER]
            if by_worker and not checkpoint.with_name("record.json").exists():
                return checkpoint.parent.name
    return None


def host_counts(storage):
    return Counter(json.loads(path.read_text())["host"]["name"] for path in storage.glob("stages/*/record.json"))


def done_by(storage):
    counts = host_counts(storage)
    return f"stages done: {counts[HEAD]} on the head, {counts[WORKER]} on the worker"


def check_results(one, two):
    """Both directories hold the same stages, each with one record and nothing unfinished, and the same rows."""
    stages = {path.name for path in (one / "stages").iterdir()}
    check({path.name for path in (two / "stages").iterdir()} == stages, "not the same stages")
    for name in stages:
        files = {path.name for path in (two / "stages" / name).iterdir()} - {"weights.safetensors"}
        check(files == {"record.json"}, f"{name} holds {', '.join(sorted(files))}; expected a record and perhaps weights")
    check(rows(one) == rows(two), "results.csv differs from the one machine's in more than time_s")
    say(f"{len(stages)} stages with a record each; results.csv has {len(rows(two)) - 1} rows, the same as on one machine")


def rows(storage):
    """The lines of results.csv without their wall-clock column."""
    with (storage / "results.csv").open(newline="") as file:
        table = list(csv.reader(file))
    clock = table[0].index("time_s")
    return [row[:clock] + row[clock + 1 :] for row in table]


if __name__ == "__main__":
    sys.exit(run(__file__, test, needed=("sshd", "ssh", "ssh-keygen", "rsync", str(RAY)), limit_s=LIMIT_S, kept=("one", "two")))
