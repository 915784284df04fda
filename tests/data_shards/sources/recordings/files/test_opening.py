"""Files that MNE cannot read."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events
from scipy.io import savemat

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.mne import MneSource

Cut = Callable[..., MneSource]


def test_an_eeglab_file_with_odd_fields_is_refused_by_name(tmp_path: Path, cut: Cut) -> None:
    channels = np.array([("Fz", "EEG")], dtype=[("labels", object), ("type", object)])
    fields = {"setname": "a", "nbchan": 1, "trials": 1, "pnts": 400, "srate": 200.0, "xmin": 0.0, "xmax": 2.0}
    content = {**fields, "data": np.zeros((1, 400)), "chanlocs": channels, "event": [], "chaninfo": {}, "epoch": []}
    savemat(tmp_path / "a.set", {"EEG": content}, appendmat=False)
    with pytest.raises(UserError, match=r"MNE cannot read .*a\.set: "):
        cut(tmp_path / "a.set")


@pytest.mark.parametrize("name", ["a.edf", "a.bdf", "a.set", "a.vhdr", "a_raw.fif", "a-epo.fif", "a.txt"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, cut: Cut, name: str) -> None:
    (tmp_path / name).write_text("this is no recording\n" * 30)
    with pytest.raises(UserError, match=f"MNE cannot read .*{name}: "):
        cut(tmp_path / name)


def halved(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("ending", ["_raw.fif", ".set"])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, cut: Cut, ending: str) -> None:
    path = halved(export(annotate(make_raw(), regular_events(9)), tmp_path / f"a{ending}"))
    with pytest.raises(UserError, match=f"MNE cannot read .*a{ending}: "):
        cut(path)


def test_an_edf_file_that_was_cut_short_gives_what_it_has(tmp_path: Path, cut: Cut) -> None:
    source = cut(halved(export(annotate(make_raw(), regular_events(9)), tmp_path / "a.edf")))
    assert len(list(source.segments())) == source.num_segments() == 4
    assert any("MNE says: Number of records from the header does not match the file size" in n for n in source.notes)


@pytest.mark.parametrize("name", ["a_raw-1.fif", "other.eeg"])
def test_a_fifo_beside_a_recording_is_refused_at_once(tmp_path: Path, cut: Cut, name: str) -> None:
    """MNE opens further parts and the files that headers name: it would wait for a writer for ever."""
    path = export(annotate(make_raw(), regular_events(9)), tmp_path / "a_raw.fif")
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"cannot read the recording .*a_raw\.fif: {name}: it is a FIFO, not a file"):
        cut(path)
