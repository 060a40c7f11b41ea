"""A sweep under a real Slurm on two hosts: clusters/slurm.sh, from its command to the last process and file.

    python tests/clusters/slurm.py

Run as root, on Linux, in a virtual environment, with Slurm (Debian: slurmctld, slurmd, slurm-client, munge), ip and unshare. Takes
about two minutes. A login node and two hosts are made of namespaces (`machines.py`), with four CPUs and two GPUs each, both
pretended; jobs are those of a user without rights. Nothing of it stays (`apart.py`). Where it can't be run it says
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
from machines import ADDRESS, ENVIRONMENT, HEAD, OPERATOR, PYTHON, REPO, WORKER, Failed, Host, call, check, lay_wire, settle, wait_for, write_etc

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
SchedulerParameters=preempt_youngest_first
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
        start = f"{names} && {munge} && touch /run/gpu0 /run/gpu1 && slurmd -D; exit"
        self.hosts = {name: Host(work, name, ["bash", "-O", "xpg_echo", "-c", start], 6818) for name in HOSTS}
        wait_for("two idle nodes", 30, lambda: call("sinfo", "-h", "-N", "-p", "usual", "-o", "%t").split() == ["idle"] * 2)

    @staticmethod
    def _write_etc(etc):
        with (etc / "passwd").open("a") as file:
            file.write(f"{USER}:x:{UID}:{GID}::{etc.parent / USER}:/bin/bash\n")
        (etc / "munge.key").write_bytes(os.urandom(1024))
        (etc / "munge.key").chmod(0o600)
        nodes = "\n".join(f"NodeName={name} NodeAddr={ADDRESS[name]} CPUs=4 RealMemory=16000 Gres=gpu:2" for name in HOSTS)
        values = {"operator": OPERATOR, "address": ADDRESS[OPERATOR], "nodes": nodes}
        (etc / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (etc / "gres.conf").write_text("Name=gpu Count=2 File=/run/gpu[0-1]\n")

    def as_user(self, *command, **environment):
        """Run a command as the user, in the checkout; what it said."""
        theirs = {**ENVIRONMENT, "SLURM_CONF": os.environ["SLURM_CONF"], "HOME": str(self.home), "USER": USER}
        theirs |= {"RAYSP_VENV": sys.prefix, "OMP_NUM_THREADS": "1", **environment}
        del theirs["RAY_AUTH_MODE"]
        return call(*command, env=theirs, user=UID, group=GID, extra_groups=[], cwd=REPO, umask=0o022)

    def submit(self, *command, flags=(), script="clusters/slurm.sh", **environment):
        """The number of a job with such flags of sbatch."""
        few = ("--cpus-per-task=1", f"--output={self.home}/%j.log")
        return self.as_user("sbatch", "--parsable", *few, *flags, script, *command, **environment).strip()

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

    def left(self, job):
        """What of a user's jobs is still on hosts: processes, directories in /tmp, and tokens."""
        found = []
        for name, host in self.hosts.items():
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    same = os.readlink(process / "ns/pid") == os.readlink(f"/proc/{host.first}/ns/pid")
                    if same and process.stat().st_uid == UID:
                        found.append(f"{name}: {(process / 'cmdline').read_bytes()[:80]}")
            for path in Path(f"/proc/{host.first}/root/tmp").iterdir():
                if path.lstat().st_uid == UID:
                    found.append(f"{name}: {path.name}")
        return found + [str(path) for path in (self.home / ".raysp").glob("*")]


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
