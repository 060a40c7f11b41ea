"""A sweep under a real Slurm on two hosts: clusters/slurm.sh, from its command to the last process and file.

    python tests/clusters/slurm.py

Run as root, on Linux, in a virtual environment, with Slurm (Debian: slurmctld, slurmd, slurm-client, munge), ip and unshare.
Takes two to five minutes. A login node and two hosts are made of namespaces (`machines.py`), with four CPUs and three GPUs each,
both pretended; jobs are those of a user without rights. Nothing of it stays (`apart.py`). Where it can't be run it says
`skipped: ...`, with status 0.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from apart import run, say
from machines import (
    ADDRESS,
    ENVIRONMENT,
    HEAD,
    OPERATOR,
    REPO,
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

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
LIMIT_S = 600
USER, UID, GID = "ann", 61234, 100
HOSTS = (HEAD, WORKER)
CONFIGURATION = """
ClusterName=netns
SlurmctldHost={operator}({address})
SlurmUser=root
AuthInfo=cred_expire=5
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
TaskPlugin=task/none
SchedulerParameters=preempt_youngest_first,sched_interval=1,bf_interval=1
{nodes}
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=9
"""


class Slurm:
    """A Slurm of two hosts, and a user's home in which its jobs leave what they say."""

    def __init__(self, work):
        self.work, self.home = work, work / USER
        write_etc(work)
        self._write_etc(work / "etc")
        settle(work, OPERATOR)
        lay_wire()
        work.chmod(0o711)
        open_to_all(REPO, Path(sys.prefix), Path(sys.base_prefix))
        self.home.mkdir(mode=0o755)
        os.chown(self.home, UID, GID)
        munge = f"mkdir -m 755 /run/munge && munged --force --key-file {work}/etc/munge.key"
        munge += " --log-file /run/munge/log --seed-file /run/munge/seed"
        os.environ["SLURM_CONF"] = f"{work}/etc/slurm.conf"
        call("bash", "-c", munge)
        Path("/run/slurmctld").mkdir()
        with (work / "logs" / "slurmctld.log").open("w") as log:
            subprocess.Popen(["slurmctld", "-D"], stdout=log, stderr=log)
        # Names as on Debian: a host's own is 127.0.1.1 to it, and the other's is known to Slurm alone. bash stays each host's
        # first process, and takes leave of processes whose parents have gone.
        names = 'echo "127.0.0.1 localhost\n127.0.1.1 $(uname -n)" > /run/hosts && mount --bind /run/hosts /etc/hosts'
        gpus = "for gpu in 0 1 2; do mknod -m 666 /run/gpu$gpu c 1 3; done"  # each another /dev/null
        start = f"{names} && {munge} && {gpus} && slurmd -D; exit"
        self.hosts = {name: Host(work, name, ["bash", "-O", "xpg_echo", "-c", start], 6818) for name in HOSTS}
        wait_for("two idle nodes", 30, lambda: call("sinfo", "-h", "-N", "-p", "usual", "-o", "%t").split() == ["idle"] * 2)

    @staticmethod
    def _write_etc(etc):
        with (etc / "passwd").open("a") as file:
            file.write(f"{USER}:x:{UID}:{GID}::{etc.parent / USER}:/bin/bash\n")
        (etc / "munge.key").write_bytes(os.urandom(1024))
        (etc / "munge.key").chmod(0o600)
        nodes = "\n".join(f"NodeName={name} NodeAddr={ADDRESS[name]} CPUs=4 RealMemory=16000 Gres=gpu:3" for name in HOSTS)
        values = {"operator": OPERATOR, "address": ADDRESS[OPERATOR], "nodes": nodes}
        (etc / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (etc / "gres.conf").write_text("Name=gpu Count=3 File=/run/gpu[0-2]\n")

    def as_user(self, *command, **environment):
        """Run a command as the user, in the checkout; what it said."""
        theirs = {**ENVIRONMENT, "SLURM_CONF": os.environ["SLURM_CONF"], "HOME": str(self.home), "USER": USER}
        theirs |= {"RAYSP_VENV": sys.prefix, "OMP_NUM_THREADS": "1", **environment}
        del theirs["RAY_AUTH_MODE"]
        return call(*command, env=theirs, user=UID, group=GID, extra_groups=[], cwd=REPO, umask=0o022)

    def submit(self, *command, flags=(), script="clusters/slurm.sh", **environment):
        """The number of a job with such flags of sbatch."""
        few = ("--cpus-per-task=1", "--mem=2G", f"--output={self.home}/%j.log")
        number = self.as_user("sbatch", "--parsable", *few, *flags, script, *command, **environment).strip()
        say(f"job {number}: {shlex.join(map(str, command[:2]))}, {shlex.join(flags)}")
        return number

    def log(self, job):
        with suppress(FileNotFoundError):
            return (self.home / f"{job}.log").read_text()
        return ""

    def shown(self, job, field):
        return dict(word.split("=", 1) for word in call("scontrol", "show", "job", job).split() if "=" in word)[field]

    def state(self, job):
        return self.shown(job, "JobState")

    def wait(self, job, seconds=120):
        """Wait until a job has ended, and return its exit status."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait_for(f"the end of job {job}: {self.log(job)[-2000:]}", seconds, lambda: time.sleep(0.2) or self.state(job) in ended)
        return int(self.shown(job, "ExitCode").split(":")[0])

    def processes(self):
        """Host, directory in /proc, and Slurm's job number (or nothing) of each of the user's processes on hosts."""
        for name, host in self.hosts.items():
            there = Path(f"/proc/{host.first}/ns/pid").readlink()
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it ended
                    if (process / "ns/pid").readlink() == there and process.stat().st_uid == UID:
                        yield name, process, setting(process, "SLURM_JOB_ID")

    def directories(self, job):
        """What a job's Ray has below /tmp: paths as this machine sees them."""
        named = [(name, setting(process, "RAY_TMPDIR")) for name, process, number in self.processes() if number == job]
        paths = {Path(f"/proc/{self.hosts[name].first}/root{path}") for name, path in named if path}
        return {path for path in paths if path.exists()}  # srun's own processes have the batch host's in their environment

    def check_gone(self, job, directories):
        """Failed unless soon nothing of a job is there, while others may go on."""

        def left():
            names = [f"{name}: {process.name}" for name, process, number in self.processes() if number == job]
            return names + [str(path) for path in (*directories, self.home / ".raysp" / f"token-{job}") if path.exists()]

        with suppress(Failed):
            wait_for("its end", 20, lambda: not left())
        check(not left(), f"of job {job} there is still {', '.join(left())}: {self.log(job)}")

    def check_nothing_left(self):
        """Failed unless soon the user has no process, file in a /tmp, or token anywhere."""

        def left():
            found = [f"{name}: {process.name}" for name, process, _ in self.processes()]
            for name, host in self.hosts.items():
                paths = Path(f"/proc/{host.first}/root/tmp").iterdir()
                mine = [path.name for path in paths if path.lstat().st_uid == UID]
                found += [f"{name}: {path}" for path in mine if path != f"torchinductor_{USER}"]  # torch's cache stays
            return found + [str(path) for path in (self.home / ".raysp").glob("*")]

        with suppress(Failed):
            wait_for("the end of all", 20, lambda: not left())
        check(not left(), f"there is still {', '.join(left())}")


def setting(process, name):
    """An environment variable of a process, or nothing."""
    for line in (process / "environ").read_bytes().decode(errors="replace").split("\0"):
        if line.startswith(f"{name}="):
            return line.partition("=")[2]
    return ""


def open_to_all(*directories):
    """Let everyone on this machine, and those that it starts, pass to directories below private ones."""
    for directory in directories:
        for above in reversed(directory.resolve().parents):
            if above.stat().st_mode & 0o001:
                continue
            aside = Path("/run/aside") / str(above).replace("/", "-")
            aside.mkdir(parents=True)
            call("mount", "--rbind", above, aside)
            call("mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", above)
            for entry in aside.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    (above / entry.name).mkdir()
                    call("mount", "--rbind", entry, above / entry.name)


# Says what each node has, waits for ever if told so, and ends with a status of its own; 143 after SIGTERM, as sweeps do.
LOOK = """
import os, signal, sys, time, ray
ray.init(log_to_driver=False, logging_level="ERROR")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Ray has its own
def devices():  # of this node's Ray, which starts this process and may hide them from it
    environment = open(f"/proc/{os.getppid()}/environ").read().split("\\0")
    return [line.split("=")[1] for line in environment if line.startswith("CUDA_VISIBLE_DEVICES=")][0].split(",")
def has(node):
    gpus = ray.get(ray.remote(num_cpus=0, resources={f"node:{node['NodeManagerAddress']}": 0.01})(devices).remote())
    return f"{node['Resources']['CPU']:g} CPU, {len(gpus)} GPU, {node['Resources']['object_store_memory'] / 1e6:g} MB"
print("NODES", *sorted(map(has, ray.nodes())), sep="; ", flush=True)
while "wait" in sys.argv:
    time.sleep(0.1)
sys.exit(3)
"""


def test(work):
    slurm = Slurm(work)
    say("a Slurm of two hosts")
    try:
        check_refusals(slurm)
        check_jobs(slurm)
    finally:
        for log in slurm.home.glob("*.log"):
            shutil.copy(log, work / "logs")


def check_refusals(slurm):
    """What can't work is said before Ray is started."""
    short = slurm.submit("true", flags=("--time=3",))
    bare = slurm.submit("true", RAYSP_VENV="/nowhere")
    for job, words in ((short, "expected --time=5"), (bare, "/nowhere/bin/activate isn't there")):
        check(slurm.wait(job) == 2 and words in slurm.log(job), f"job {job}: {slurm.log(job)}")
    slurm.check_nothing_left()


def check_jobs(slurm):
    storage = slurm.home / "run"
    sweep = ("python", "sweeps/budget_sweep.py", "--width=4", "--budgets=0.2", "--seeds", "0", "1", "--epochs-scale=0.2")
    first = slurm.submit(*sweep, "--gpus-per-stage=0", f"--storage={storage}", flags=("--time=12:00:00",))
    # Without a number of GPUs for each node: the hosts' shares differ.
    text = (REPO / "clusters/slurm.sh").read_text().replace("#SBATCH --gpus-per-node=1\n", "")
    free = slurm.home / "slurm.sh"
    free.write_text(text)
    second = slurm.submit("python", "-c", LOOK, "wait", flags=("--gpus=3", "--cpus-per-task=3"), script=free)
    wait_for("the second job's nodes", 120, lambda: "NODES" in slurm.log(second) or ended_early(slurm, second))
    nodes = "NODES; 3 CPU, 1 GPU, 614 MB; 3 CPU, 2 GPU, 614 MB"
    check(nodes in slurm.log(second), f"expected {nodes}: {slurm.log(second)}")
    theirs = {job: slurm.directories(job) for job in (first, second)}
    for job, paths in theirs.items():
        check(len(paths) == 2, f"job {job} has {paths}; expected a directory on each host")
        token = slurm.home / ".raysp" / f"token-{job}"
        for path, mode in {**dict.fromkeys(paths, 0o700), token: 0o600}.items():
            check(path.stat().st_mode & 0o777 == mode, f"{path} has mode {path.stat().st_mode:o}; expected {mode:o}")
    say("two jobs on the same hosts have what was asked for, in directories and files of their own")

    urgent = slurm.submit("python", "-c", LOOK, flags=("--partition=urgent", "--cpus-per-task=3", "--gres=gpu:2"))
    wait_for("preemption", 60, lambda: slurm.state(second) != "RUNNING")
    slurm.check_gone(second, theirs[second])
    call("scontrol", "hold", second)
    check(slurm.state(first) == "RUNNING", f"job {first} was {slurm.state(first)} when another was preempted")
    say("a preempted job leaves nothing, and the other goes on")

    wait_for("a stage", 120, lambda: records(storage) or ended_early(slurm, first))
    done = records(storage)
    call("scancel", "--batch", "--signal=USR1", first)  # as Slurm does before the time is up
    wait_for("the requeue", 60, lambda: slurm.state(first) == "PENDING")
    slurm.check_gone(first, theirs[first])
    say(f"before its time is up the sweep ends, after {len(done)} stages, leaves nothing, and is requeued")

    nodes = "NODES; 3 CPU, 2 GPU, 614 MB; 3 CPU, 2 GPU, 614 MB"
    check(slurm.wait(urgent) == 3 and nodes in slurm.log(urgent), f"job {urgent}, expected 3, {nodes}: {slurm.log(urgent)}")
    check(slurm.wait(first) == 0, f"job {first}: {slurm.log(first)}")
    now = records(storage)
    check(done.items() < now.items(), f"stages were done again: {done}, now {now}")
    closed = [path for path in storage.rglob("*") if path.stat().st_mode & 0o044 != 0o044]
    check(not closed, f"others can't read {closed[:3]}")
    say(f"it goes on to its end with {len(now)} stages, which others may read")

    call("scontrol", "release", second)
    call("scontrol", "update", f"JobId={second}", "Requeue=0")
    wait_for("the second job's nodes again", 120, lambda: slurm.log(second).count("NODES") == 2)
    call("scancel", "--batch", "--signal=USR1", second)
    check(slurm.wait(second) == 143, f"job {second}, which is not to be requeued: {slurm.log(second)}")
    slurm.check_nothing_left()
    say("without requeue its status is 143; nothing is left on any host")


def ended_early(slurm, job):
    check(slurm.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), f"job {job} has ended: {slurm.log(job)}")


def records(storage):
    """When each stage was done, by its name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in storage.glob("stages/*/record.json")}


if __name__ == "__main__":
    if not Path(sys.prefix, "bin/activate").exists():
        sys.exit(print("skipped: needs a virtual environment, which jobs activate"))
    sys.exit(run(__file__, test, needed=NEEDED, limit_s=LIMIT_S))
