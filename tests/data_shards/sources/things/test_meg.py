"""THINGS-MEG: epochs files in parts, events that are numbers of images."""

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from source_files import write_image

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.things.meg import CATCH_CODE, ThingsMegOptions, ThingsMegSource

IMAGES = sorted(f"thing{c}/thing{c}_{n:02d}s.jpg" for c in range(8) for n in range(3))
TEST_CODES = (2, 5)
"""Images of thing0 and thing1."""
CHANNELS = [f"MLC{number}-1609" for number in range(11, 51)]


def write_study(root: Path, *, people: tuple[int, ...] = (1, 2)) -> Path:
    for name in IMAGES:
        write_image(root / "images" / name, 0)
    (root / "meg").mkdir()
    for person in people:
        rng = np.random.default_rng(person)
        codes = [code for code in range(1, len(IMAGES) + 1) if code not in TEST_CODES]
        codes = rng.permutation([*codes, *TEST_CODES * 12, *[CATCH_CODE] * 4])
        info = mne.create_info(CHANNELS, 200.0, "mag")
        events = np.stack([300 * np.arange(len(codes)), np.zeros_like(codes), codes], axis=1)
        data = rng.standard_normal((len(codes), len(CHANNELS), 281)) * 1e-13
        epochs = mne.EpochsArray(data, info, events, tmin=-0.1, verbose="ERROR")
        # In parts, as the published files are.
        epochs.save(root / "meg" / f"preprocessed_P{person}-epo.fif", split_size="2MB", verbose="ERROR")
        assert (root / "meg" / f"preprocessed_P{person}-epo-1.fif").exists()
    return root


def source(study: Path, **changes: Any) -> ThingsMegSource:
    given = {"root": study / "meg", "images": study / "images", "val_concepts": 2, **changes}
    return ThingsMegSource(ThingsMegOptions(**given))


def test_events_are_numbers_of_sorted_images(tmp_path: Path) -> None:
    made = source(write_study(tmp_path))
    metadata = made.metadata()
    assert (metadata.n_samples, metadata.sfreq, metadata.channel_names) == (200, 200.0, tuple(CHANNELS))
    assert metadata.preprocessing["unit"] == "femtotesla"
    assert any("4 of 50 epochs are catch trials and left out" in note for note in made.notes)
    for person in (1, 2):
        epochs = mne.read_epochs(tmp_path / "meg" / f"preprocessed_P{person}-epo.fif", verbose="ERROR")
        test_concepts = {IMAGES[code - 1].split("/")[0] for code in TEST_CODES}
        kept = [
            (code, eeg)
            for code, eeg in zip(epochs.events[:, 2].tolist(), epochs.get_data(copy=True), strict=True)
            if code != CATCH_CODE and (code in TEST_CODES or IMAGES[code - 1].split("/")[0] not in test_concepts)
        ]
        records = [record for record in made.segments() if record.subject == person]
        assert len(records) == len(kept)
        for record, (code, eeg) in zip(records, kept, strict=True):
            np.testing.assert_allclose(record.eeg, eeg[:, 20:220] * 1e15, rtol=1e-4, atol=1e-3)
            assert record.stimulus.endswith(IMAGES[code - 1].split("/")[1].removesuffix(".jpg"))
            assert (record.split == "test") == (code in TEST_CODES)
    assert any("concepts and are dropped" in note for note in made.notes)
    left_out = {(r.subject, r.split) for r in source(tmp_path, split="leave-subject-out:2").segments()}
    assert left_out == {(1, "train"), (1, "val"), (2, "test")}


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, people=(1,))
    with pytest.raises(UserError, match=r"subject 3 is not under .*; there are \[1\]"):
        source(tmp_path, subjects=(3,))
    with pytest.raises(UserError, match=r"holds no preprocessed_P1-epo\.fif"):
        source(tmp_path, root=tmp_path)
    with pytest.raises(UserError, match="holds no images"):
        source(tmp_path, images=tmp_path / "meg")
    with pytest.raises(UserError, match="show no test image"):
        source(tmp_path, test_repeats=7)
    with pytest.raises(UsageError, match="it must be 2 or more"):
        source(tmp_path, test_repeats=1)
    (tmp_path / "images" / IMAGES[-1]).unlink()
    with pytest.raises(UserError, match="event 24 is no number of the 23 images"):
        source(tmp_path)
