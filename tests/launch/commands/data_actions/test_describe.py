"""A data set described in text."""

from pathlib import Path

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.commands.data_actions.describe import describe, preprocessing_steps


def test_preprocessing_in_words() -> None:
    steps = {
        **{"band_hz": [1, 40], "resample_hz": 250.0, "baseline_s": [None, 0.0], "left_out_channels": ["T7", "T8"]},
        **{"detrend": True, "standardise": False, "clamp": 20.0, "unit": "microvolt"},
    }
    assert preprocessing_steps(steps) == [
        *["without T7, T8", "filtered 1–40 Hz", "resampled to 250 Hz"],
        *["mean of the start to 0 s subtracted", "detrend", "clamp ±20"],
    ]
    assert preprocessing_steps({}) == []
    mixed = {"train": "keep", "val": "average", "test": "average"}
    assert preprocessing_steps({"steps": "whitened by session", "repetitions": mixed}) == [
        "whitened by session",
        "repetitions averaged in val and test",
    ]
    assert preprocessing_steps({"repetitions": "average"}) == ["repetitions averaged"]
    assert preprocessing_steps({"repetitions": "keep"}) == []


def test_the_lines_say_what_the_data_set_holds(data: Path) -> None:
    lines = "\n".join(describe(Dataset.open(data)))
    assert lines.startswith("eeg: 10 segments of 4 channels × 440 samples at 1000 Hz, band not stated\n")
    assert "splits        train 8, val 1, test 1 (80/10/10 % by image within each class, seed 0)" in lines
    assert "classes       2: sorrel, parachute" in lines
    assert "stimuli       10, 0 of them with a detailed caption" in lines
