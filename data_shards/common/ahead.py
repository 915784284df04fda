"""Results computed by threads before they are asked for, in order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MAX_THREADS = 8


def ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, num_threads: int | None = None
) -> Generator[_Result, None, None]:
    """`function` of each item, in order; at most `num_threads` results are under way or waiting beside the asked one.

    num_threads: default one a core, at most 8. What `function` raises is raised in the place of its result. Close the
    iterator (contextlib.closing) to drop what nobody will ask for.
    """
    num_threads = num_threads or min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
