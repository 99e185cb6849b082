"""How the C library hands memory back to the system."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next allocations, instead of returning it to the system.

    With its defaults, glibc gets a large tensor anew from the system each time, which zeroes every page of it at the
    first touch: tens of thousands of page faults in a training step on the CPU. Afterwards a step has hardly any; the
    process holds its peak until it ends. Call it before the first step.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
