"""Limits BLAS to one thread where a result must be the same to the bit on every machine."""

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class _SharedLimit(AbstractContextManager[None]):
    """One limit for the whole process: the first thread that enters sets it, the last one that leaves removes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limits: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import OpenBLASController, threadpool_limits  # type: ignore[import-untyped]

        with self._lock:
            if self._holders == 0:
                # threadpoolctl silently ignores every thread but the one that first set a limit.
                OpenBLASController.clear_controlling_thread(force=True)
                self._limits = threadpool_limits(1, user_api="blas")
            self._holders += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from threadpoolctl import OpenBLASController

        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                OpenBLASController.clear_controlling_thread(force=True)
                self._limits.restore_original_limits()
                OpenBLASController.clear_controlling_thread(force=True)


_LIMIT = _SharedLimit()


def single_blas_thread() -> AbstractContextManager[None]:
    """Limit NumPy's BLAS to one thread: the last bit of a sum depends on how many threads share it.

    The context may be entered again inside itself, and by several threads at once. Results computed inside do not
    depend on OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and the number of cores. They do depend on the version of NumPy and
    on the kind of processor, for which BLAS chooses its kernels (OPENBLAS_CORETYPE).
    """
    return _LIMIT
