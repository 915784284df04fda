"""MNE's warnings as notes."""

import warnings
from pathlib import Path

import mne
import pytest

from neuroimagen.data_shards.sources.recordings.mne_notes import noted, unreadable


def test_each_warning_once_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []
    for _ in range(2):
        with noted("a.edf", notes):
            mne.utils.warn("names are\n  not unique")
            mne.utils.warn("names are not unique")
            warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
            mne.utils.logger.warning("printed only")
    with noted("b.edf", notes):
        mne.utils.warn("names are not unique")
    assert notes == [
        "a.edf: MNE says: names are not unique",
        "a.edf: MNE says: printed only",
        "b.edf: MNE says: names are not unique",
    ]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_errors_have_the_file_and_the_first_line() -> None:
    assert str(unreadable(Path("a.set"), ValueError("bad header\nmore"))).startswith(
        "MNE cannot read a.set: bad header."
    )
    assert "AttributeError: no 'get'" in str(unreadable(Path("a.set"), AttributeError("no 'get'")))
    assert "KeyError" in str(unreadable(Path("a.set"), KeyError()))
