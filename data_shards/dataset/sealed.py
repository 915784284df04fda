"""Sealing: splits of a data set that this process, and every process it starts, must not read.

A search over settings seals the test split, so that no setting can be chosen by looking at the data on which the
result is reported. Asking a data set for the rows, the EEG or the images of a sealed split raises SealedSplitError. The
seal is an environment variable, which child processes inherit. It guards against mistakes, not against intent: whoever
unsets the variable can read the split.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from neuroimagen.data_shards.common.errors import UserError

VARIABLE = "NEUROIMAGEN_SEALED_SPLITS"
"""Names of the sealed splits, separated by commas."""


class SealedSplitError(UserError):
    """Something asked for data of a sealed split."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is sealed: a search over settings runs here, and it must not read this data.")


def sealed_splits() -> tuple[str, ...]:
    """The splits that this process must not read."""
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def seal(*splits: str) -> None:
    """Seal splits until this process ends, and for the processes that it starts."""
    os.environ[VARIABLE] = ",".join(sorted({*sealed_splits(), *splits}))


@contextmanager
def sealed(*splits: str) -> Iterator[None]:
    """Seal splits for the length of a block."""
    before = os.environ.get(VARIABLE)
    seal(*splits)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
