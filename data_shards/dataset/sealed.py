"""Parts of a data set that may not be read: a search over settings must never see the part that it is judged on.

The seal is an environment variable, so that every process started under it is sealed too. It guards against mistakes:
whoever unsets the variable means to.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from neuroimagen.data_shards.common.errors import UserError

VARIABLE = "NEUROIMAGEN_SEALED_PARTS"


class SealedPartError(UserError):
    """Something asked for a sealed part of a data set."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is sealed: settings are searched for here, and a search may not see it.")


def sealed_parts() -> tuple[str, ...]:
    """The parts that this process may not read."""
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def seal(*parts: str) -> None:
    """Seal parts for the rest of this process's life, and for the processes it starts."""
    os.environ[VARIABLE] = ",".join(sorted({*sealed_parts(), *parts}))


@contextmanager
def sealed(*parts: str) -> Iterator[None]:
    """Parts sealed for the length of a block."""
    before = os.environ.get(VARIABLE)
    seal(*parts)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
