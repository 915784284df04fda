"""Progress bars, on a terminal and on rank 0 only."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(iterable: Iterable[T], *, total: int | None = None, desc: str = "", unit: str = "it") -> Iterator[T]:
    """Iterate with a progress bar on stderr; silent when stderr is not a terminal or this is not rank 0."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    yield from tqdm(iterable, total=total, desc=desc, unit=unit, disable=hidden, leave=False)
