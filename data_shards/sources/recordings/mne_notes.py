"""MNE's warnings, kept as notes: none is muted, and each is said once for a recording."""

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError

_FOR_PROGRAMMERS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


@contextlib.contextmanager
def noted(name: str, notes: list[str]) -> Iterator[None]:
    """Append what MNE and mne-bids warn of within the block to `notes`, as "NAME: MNE says: …", each text once.

    DeprecationWarning and FutureWarning speak to programmers and are left out.
    """
    import mne

    # MNE prints what it warns of as well; the printed lines are caught, and those that were no warnings become notes.
    with (
        warnings.catch_warnings(record=True) as caught,
        mne.utils.use_log_level("WARNING"),
        mne.utils.catch_logging() as printed,
    ):
        warnings.simplefilter("always")
        yield
    said = [(warning.category, _one_line(str(warning.message))) for warning in caught]
    texts = [text for category, text in said if not issubclass(category, _FOR_PROGRAMMERS)]
    lines = filter(None, map(_one_line, printed.getvalue().splitlines()))
    texts += [line for line in lines if not any(line in text for _, text in said)]
    for text in texts:
        if (note := f"{name}: MNE says: {text}") not in notes:
            notes.append(note)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@dataclasses.dataclass(frozen=True)
class NoteTaker:
    """Where the warnings of a recording go while it is read in steps."""

    name: str
    notes: list[str]

    def noted(self) -> contextlib.AbstractContextManager[None]:
        """`noted` of this recording."""
        return noted(self.name, self.notes)


def unreadable(path: Path, error: Exception) -> UserError:
    """The error for a recording that MNE fails to read, with the first line of what MNE said."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not isinstance(error, OSError | ValueError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}"
    return UserError(
        f"MNE cannot read {path}: {reason}. If other software opens it, save it from there anew and ingest that file."
    )
