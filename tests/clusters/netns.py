"""A sweep on a cluster of two hosts, one of which dies in the middle: are the results those of one machine?

    python tests/clusters/netns.py

Run as root, on Linux, with sshd, ssh, rsync (Debian: openssh-server, openssh-client, rsync), ip and unshare. Takes about 90 s.
An operator's machine and two hosts of one CPU each are made of namespaces (`machines.py`); `ray up` starts Ray on the hosts over
ssh, with token authentication; a sweep runs on both, and one loses its power while a stage runs on it.

The operator's first process ends when its standard input does, and takes all others along. So whatever becomes of this script, no
process, link or mount outlives it; only its directory in /tmp does, after a kill -9. Where machines can't be made it says
`skipped: ...`, with status 0.
"""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from machines import (
    ADDRESS,
    ENVIRONMENT,
    HEAD,
    NAMESPACES,
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
    missing,
    settle,
    wait_for,
    write_etc,
)

RAY = PYTHON.with_name("ray")
# Of two seeds, so that four stages can start at once: each host has another to do after its first.
SWEEP = ("sweeps/budget_sweep.py", "--width", "4", "--budgets", "0.2", "--seeds", "0", "1", "--gpus-per-stage", "0")
LIMIT_S = 600
START = time.monotonic()


def say(text):
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


# ---- this machine


def main():
    if why := missing() or ("" if RAY.exists() else f"not found: {RAY}"):
        print(f"skipped: {why}")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # like Ctrl-C: an exception, so that all is cleared away
    work = Path(tempfile.mkdtemp(prefix="rsp-", dir="/tmp"))  # short, for the sockets of ssh and Ray
    for name in ("logs", "home"):
        (work / name).mkdir()
    before = traces(work.name)
    status = 1
    try:
        status = run_operator(work)
    except KeyboardInterrupt:
        say("interrupted")
        status = 130
    finally:
        if left := [trace for trace in traces(work.name) if trace not in before]:
            say("FAILED: still there: " + "; ".join(left))
            status = 1
        for path in work.iterdir():
            if status != 1 or path.name not in ("logs", "one", "two"):
                shutil.rmtree(path)
        if status != 1:
            work.rmdir()
    say({0: "all well", 1: f"not well; logs and results are in {work}", 130: "all cleared away"}[status])
    return status


def run_operator(work):
    """Start the operator's machine with the test, and return 0 or 1 when that and all its processes have ended."""
    # In a session of its own: Ctrl-C is for this process.
    role = [sys.executable, __file__, OPERATOR, str(work), str(START)]
    environment = {**ENVIRONMENT, "HOME": str(work / "home")}
    machine = subprocess.Popen([*NAMESPACES, *role], env=environment, stdin=subprocess.PIPE, start_new_session=True)
    try:
        return 0 if machine.wait(LIMIT_S) == 0 else 1
    except subprocess.TimeoutExpired:
        say(f"FAILED: not done within {LIMIT_S} s")
        return 1
    finally:
        machine.stdin.close()
        try:
            machine.wait(20)  # it waits for the first process, and the kernel ends that one last
        except subprocess.TimeoutExpired:
            machine.kill()


def traces(mark):
    """Processes and mounts that bear the mark, and the machines' addresses where they are this machine's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            if mark.encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found.append(f"process {process.name}")
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mark in line]
    addresses = call("ip", "-o", "addr", env=ENVIRONMENT)
    return found + [address for address in ADDRESS.values() if f" {address}/" in addresses]


# ---- the operator's machine


def operator(work):
    life = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # for the processes that it starts
    threading.Thread(target=lambda: (os.read(life, 1), os._exit(1)), daemon=True).start()
    hosts = {}
    try:
        say("one machine: the sweep in one process, without Ray")
        with (work / "logs" / "one.log").open("w") as log:
            command = [sys.executable, *SWEEP, "--inline", "--storage", work / "one"]
            subprocess.run(command, cwd=REPO, stdout=log, stderr=log, timeout=LIMIT_S, check=True)
        write_etc(work)
        settle(work, OPERATOR)
        lay_wire()
        for name in (HEAD, WORKER):
            hosts[name] = Host(work, name)
        say("two hosts answer to ssh")
        test(work, hosts)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        say(f"FAILED: {error}")
        for name, host in hosts.items():
            with suppress(OSError):
                host.copy_ray_logs(work / "logs" / f"ray-{name}")
        return 1
    return 0


def test(work, hosts):
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
    if len(sys.argv) > 1 and sys.argv[1] != OPERATOR:
        sys.exit(__doc__)
    if len(sys.argv) > 1:
        START = float(sys.argv[3])  # the clock is the machine's, and the same in all its processes
        sys.exit(operator(Path(sys.argv[2])))
    sys.exit(main())
