"""What a process that trains sets for itself, once.

Owns the C library's allocator and what of a GPU products may use. Contract: where there is no such thing (another C library, no
GPU) nothing happens.
"""

import ctypes
from contextlib import suppress

import torch

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees, until it ends.

    By default glibc gives blocks above 32 MB back to the system at once, and the system clears every page of the next ones. A
    network's maps reach that size (at a batch of 128, 64 channels of 32x32 do), and clearing them takes several times as long as
    a pass over them. In a process that trains in another thread than the main one, call this before that thread starts.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 (glibc's alone)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_ARENA_MAX, 1)  # a thread's own arena takes no blocks of that size


def use_tensor_cores() -> None:
    """Let this process's float32 convolutions and products on GPUs be TF32: factors of 10 bits, sums of 23."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
