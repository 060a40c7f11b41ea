"""Makes a Python process see a directory as some network and USB file systems have it; put this directory on PYTHONPATH.

`ODD_FS_ROOT` is the directory, `ODD_FS` what it lacks, separated by commas:

    fsyncdir    a directory can't be brought to the disk (SMB, VirtualBox): EINVAL
    eio         ... because the disk is broken: EIO
    link        no hard links (exFAT, SMB, gcsfuse): EPERM
    flock       no locks (Lustre mounted without them): ENOSYS
    sham        locks are granted to whoever asks
    quota       nothing may be written once the first stage is done: EDQUOT
"""

import builtins
import errno
import fcntl
import io
import os
import stat
from pathlib import Path

LACKS = os.environ.get("ODD_FS", "").split(",")
ROOT = os.path.realpath(os.environ.get("ODD_FS_ROOT", "/nonexistent"))
SYNC, LINK, FLOCK, OPEN = os.fsync, os.link, fcntl.flock, io.open


def inside(path):
    return os.path.realpath(os.fsdecode(path)).startswith(ROOT)


def inside_fd(file):
    return inside(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")


def refuse(number):
    raise OSError(number, os.strerror(number))


def sync(file):
    if stat.S_ISDIR(os.fstat(file).st_mode) and inside_fd(file):
        refuse(errno.EIO if "eio" in LACKS else errno.EINVAL)
    return SYNC(file)


def link(source, target, **options):
    if inside(target):
        refuse(errno.EPERM)
    return LINK(source, target, **options)


def flock(file, how):
    if not inside_fd(file):
        return FLOCK(file, how)
    return refuse(errno.ENOSYS) if "flock" in LACKS else None


def open_(file, mode="r", *more, **options):
    if "w" in mode and not isinstance(file, int) and inside(file) and any(Path(ROOT).glob("stages/*/record.json")):
        refuse(errno.EDQUOT)
    return OPEN(file, mode, *more, **options)


if "fsyncdir" in LACKS or "eio" in LACKS:
    os.fsync = sync
if "link" in LACKS:
    os.link = link
if "flock" in LACKS or "sham" in LACKS:
    fcntl.flock = flock
if "quota" in LACKS:
    builtins.open = io.open = open_
