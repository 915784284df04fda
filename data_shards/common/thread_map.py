"""A function mapped over items by threads, which compute results before the caller asks for them."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MAX_THREADS = 8


def map_in_threads(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, num_threads: int | None = None
) -> Generator[_Result, None, None]:
    """Yield `function` of each item, in the order of the items.

    At most `num_threads` results are being computed or waiting besides the one that the caller asks for; the default is
    one per core, at most 8. An error of `function` is raised in place of its result. Close the iterator
    (contextlib.closing) if not all results are needed: what has not begun is then not computed.
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
