"""Memory that a training step has freed stays with the process, for the next step to use."""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep freed memory instead of giving it back to the system; False where there is no glibc.

    PyTorch has no cache of CPU memory. By default glibc takes every large tensor from the system and gives it back, so
    that each step pays for the same pages again: a third of the processor time of the demo's alignment stage.
    See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
