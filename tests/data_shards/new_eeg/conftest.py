"""A recording, the data set that it was ingested into, and the epochs that a user of MNE cuts from it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import mne
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_codes

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.writing.preprocessing import Preprocessing

NAMES = ("Fz", "Cz", "Pz", "Oz", "M1")


@dataclasses.dataclass(frozen=True)
class Study:
    """A data set and the recording it was cut from."""

    dataset: Dataset
    raw: mne.io.BaseRaw

    @property
    def wanted(self) -> InputDescription:
        return InputDescription.of(self.dataset.metadata)

    @property
    def stored(self) -> np.ndarray:
        """Its segments as they are read, float32 [n, C, T]."""
        return np.stack([self.dataset.eeg(row) for row in range(len(self.dataset))])

    def epochs(self, tmin: float = -0.5, tmax: float = 1.5, **options: Any) -> mne.Epochs:
        """Epochs of all events."""
        events, _ = mne.events_from_annotations(self.raw, verbose="ERROR")
        options = {"baseline": None, "preload": True, **options}
        return mne.Epochs(self.raw, events, tmin=tmin, tmax=tmax, verbose="ERROR", **options)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """study(preprocessing, **options of ingest mne) → the data set that they make of one recording."""

    def make(preprocessing: Preprocessing | None = None, **options: Any) -> Study:
        folder = tmp_path_factory.mktemp("study")
        raw = annotate(make_raw(seconds=30, names=NAMES), regular_events(9, first=2.0))
        path = export(raw, folder / "rec_raw.fif")
        write_codes(folder, ("e0", "e1", "e2"))
        source = MneSource(
            MneOptions(recordings=(path,), events=folder / "events.csv", images=folder / "pics", **options)
        )
        dataset = ingest(source, folder / "data", preprocessing=preprocessing, workers=1)
        return Study(dataset, mne.io.read_raw(path, preload=True, verbose="ERROR"))

    return make


@pytest.fixture
def wanted() -> InputDescription:
    """A description of three named channels in µV, from 0 to 0.5 s at 100 Hz, to which nothing was done."""
    return InputDescription(
        data="small",
        n_channels=3,
        n_samples=50,
        sfreq=100.0,
        channel_names=("Fz", "Cz", "Pz"),
        unit="microvolt",
        first_sample_s=0.0,
    )
