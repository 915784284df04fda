"""What labels say, and what they do not."""

import mne
import pytest

from neuroimagen.data_shards.sources.recordings.channels.kinds import kind_by_label


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("EOG left", "eog"),
        ("HEOG", "eog"),
        ("veog+", "eog"),
        ("EXG1", "eog"),
        ("ROC-M1", "eog"),
        ("ECG", "ecg"),
        ("EKG-2", "ecg"),
        ("EMG chin", "emg"),
        ("GSR1", "gsr"),
        ("EDA", "gsr"),
        ("Resp", "resp"),
        ("Airflow", "resp"),
        ("Temp rectal", "temperature"),
        ("SpO2", "bio"),
        ("SaO2", "bio"),
        ("Plet", "bio"),
        ("Erg1", "bio"),
        ("AUX_3", "misc"),
        ("Photo", "misc"),
        ("Pupil L", "misc"),
        ("Status", "stim"),
        ("TRIGGER", "stim"),
        ("STI 014", "stim"),
        ("EEG ECG", "ecg"),
        ("Fp1", None),
        ("EEG Fp1-A2", None),
        ("T8", None),
        ("TP9", None),
        ("M1", None),
        ("A1", None),
        ("AF3", None),
        ("E128", None),
        ("Temporal L", None),
        ("Iz", None),
    ],
)
def test_labels(label: str, kind: str | None) -> None:
    assert kind_by_label(label) == kind


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("montage", ["standard_1005", "biosemi256", "GSN-HydroCel-256", "easycap-M10", "mgh70"])
def test_no_electrode_of_a_cap_is_taken_for_something_else(montage: str) -> None:
    names = mne.channels.make_standard_montage(montage).ch_names
    assert [name for name in names if kind_by_label(name)] == []
