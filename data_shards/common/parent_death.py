"""Child processes that end when the process that started them dies, however it dies. Linux only."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with_parent(signum: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process a signal when its parent dies. Does nothing on other systems than Linux."""
    if (libc := _libc()) is not None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signum))


def ending_with_this_process() -> Callable[[], None]:
    """A `preexec_fn` for `subprocess.Popen`: the child gets SIGTERM when this process dies."""
    _libc()  # loaded here: nothing may be loaded between fork and exec
    parent = os.getpid()

    def prepare() -> None:
        end_with_parent()
        if os.getppid() != parent:  # the parent died before the kernel was asked
            os._exit(1)

    return prepare


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
