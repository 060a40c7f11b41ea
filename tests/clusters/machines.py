"""Machines made of namespaces: an operator's and, joined to it by a bridge, two hosts.

Each machine has processes, a network, a name, a home and a /tmp of its own; the rest of the disk they share. The bridge
and all addresses are in the operator's namespaces, so that nothing reaches the real network, and the operator's end is the end of
every process, link and mount below it. Run as `machines.py NAME WORK COMMAND...`, this file is a host's first process.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)
NEEDED = ("ip", "unshare", "nsenter", "mount", "bash")
NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
OPERATOR, HEAD, WORKER = "operator", "head", "worker"
ADDRESS = {OPERATOR: "10.77.0.1", HEAD: "10.77.0.2", WORKER: "10.77.0.3"}
UMASK = {OPERATOR: 0o022, HEAD: 0o022, WORKER: 0o027}
"""Different, so that a file's mode tells which host wrote it."""
# Nothing of the caller's settings for Ray, torch or ssh gets in. sshd and ip are where not everyone's path leads.
ENVIRONMENT = {
    "PATH": f"{PYTHON.parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
    "PYTHONPATH": str(REPO),
    "PYTHONDONTWRITEBYTECODE": "1",
    "LANG": "C.UTF-8",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Failed(Exception):
    """What should hold doesn't; the message is for the reader."""


def check(holds, message):
    if not holds:
        raise Failed(message)


def call(*command, **options):
    """Run a command to its end and return what it said; Failed unless its status is 0."""
    shown = shlex.join(map(str, command))
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, **options)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{shown}: not done within {late.timeout} s: {(late.stdout or b'').decode()[-3000:]}") from None
    check(done.returncode == 0, f"{shown}: status {done.returncode}: {done.stdout[-3000:]}")
    return done.stdout


def wait_for(what, seconds, look):
    """Poll until `look()` gives something true, and return it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        check(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.03)
    return found


def missing(needed):
    """Why no machines with these programs can be made here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to make namespaces"
    if absent := [name for name in (*NEEDED, *needed) if not shutil.which(name, path=ENVIRONMENT["PATH"])]:
        return f"not found: {', '.join(absent)}"
    attempt = "mount -t tmpfs tmpfs /run && ip link add wire type bridge && ip link add one type veth peer name two"
    done = subprocess.run([*NAMESPACES, "sh", "-c", attempt], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    return f"no namespaces, mounts or links here: {done.stderr.strip()}" if done.returncode else ""


def settle(work, machine):
    """Make this process's namespaces a machine's: name, home, /tmp, /run and /var/log."""
    socket.sethostname(machine)
    for directory in ("/run", "/var/log"):  # sshd notes logins in both
        call("mount", "-t", "tmpfs", "tmpfs", directory)
    Path("/run/sshd").mkdir(mode=0o755)  # sshd insists
    # Ray's sockets, state and ssh connections are below /tmp, some at fixed paths. What else is there stays: this checkout, its
    # Python or `work` may be among it.
    temporary = Path("/run/tmp")
    temporary.mkdir()
    temporary.chmod(0o1777)
    for entry in os.scandir("/tmp"):
        if entry.is_dir(follow_symlinks=False) and entry.name != "ray" and not entry.name.startswith("ray_"):
            (temporary / entry.name).mkdir()
            try:
                call("mount", "--rbind", entry.path, temporary / entry.name)
            except Failed:  # somebody's, and gone since; where it was needed, that will be said soon
                (temporary / entry.name).rmdir()
    call("mount", "--rbind", temporary, "/tmp")
    home = work / "home"
    call("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", home)
    for file in ("passwd", "shadow", "hosts"):  # ssh and sshd take the home from here, not from $HOME
        call("mount", "--bind", work / "etc" / file, f"/etc/{file}")
    # What an administrator would have set up: Python on the path, and nothing open to those without the token.
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in ENVIRONMENT.items()]
    (home / ".bashrc").write_text("".join(lines) + f"umask {UMASK[machine]:03o}\n")


def write_etc(work):
    """Files that all machines have: users with their homes, and names."""
    etc, home = work / "etc", work / "home"
    etc.mkdir(mode=0o755)
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    (etc / "passwd").write_text("\n".join([f"root:x:0:0:root:{home}:{shutil.which('bash')}", *others, ""]))
    (etc / "shadow").write_text("root:*:19000:0:99999:7:::\n")  # no password, but not locked, or sshd would refuse its key too
    (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{ADDRESS[name]} {name}\n" for name in ADDRESS))


def lay_wire():
    """Give the operator's machine the bridge that hosts are joined to."""
    call("ip", "link", "add", "wire", "type", "bridge")
    call("ip", "addr", "add", f"{ADDRESS[OPERATOR]}/24", "dev", "wire")
    for link in ("lo", "wire"):
        call("ip", "link", "set", link, "up")


class Host:
    """A host, as the operator who starts it has it: its first process's id, and a cable.

    Args:
        work: the directory that the machines share.
        name: HEAD or WORKER.
        command: what its first process becomes; the host ends with it.
        port: where that listens when it is ready.
    """

    def __init__(self, work, name, command, port):
        self.cable = f"to-{name}"
        with (work / "logs" / f"host-{name}.log").open("w") as log:
            role = [sys.executable, __file__, name, work, *command]
            self.machine = subprocess.Popen([*NAMESPACES, *role], stdout=log, stderr=log)
        self.first = wait_for(f"{name}'s first process", 20, self._child)
        call("ip", "link", "add", self.cable, "master", "wire", "type", "veth", "peer", "name", "eth0", "netns", self.first)
        call("ip", "link", "set", self.cable, "up")
        for change in (f"addr add {ADDRESS[name]}/24 dev eth0", "link set eth0 up", "link set lo up"):
            call("nsenter", "--target", self.first, "--net", "ip", *change.split())
        wait_for(f"{command[0]} on {name}", 20, lambda: self._answers(ADDRESS[name], port))

    def _child(self):
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if f"\nPPid:\t{self.machine.pid}\n" in status.read_text():
                    return status.parent.name
            except OSError:
                continue  # it ended
        check(self.machine.poll() is None, f"unshare ended with status {self.machine.returncode}")
        return None

    def _answers(self, address, port):
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            return False
        return True

    def lose_power(self):
        """The cable goes first, so that none of its processes can say goodbye."""
        call("ip", "link", "set", self.cable, "down")
        os.kill(int(self.first), signal.SIGKILL)
        self.machine.wait(20)  # for the last of its processes

    def copy_ray_logs(self, to):
        for logs in Path(f"/proc/{self.first}/root/tmp/ray").glob("session_2*/logs"):  # below /tmp as the host sees it
            shutil.copytree(logs, to, ignore_dangling_symlinks=True)


if __name__ == "__main__":
    settle(Path(sys.argv[2]), sys.argv[1])
    os.execvp(sys.argv[3], sys.argv[3:])  # when this process ends, all of the host's do
