"""Recordings whose channels differ."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.mne import MneSource

Cut = Callable[..., MneSource]


def record(path: Path, names: Sequence[str], *, bads: Sequence[str] = ()) -> Path:
    """A recording whose channel of each name (letter case aside) has the same values in every recording."""
    raw = annotate(make_raw(20, names=tuple(names)), regular_events(3))
    for place, name in enumerate(names):
        seed = sum(map(ord, name.strip().lower()))
        raw._data[place] = np.random.default_rng(seed).standard_normal(raw.n_times) * 2e-5
    raw.info["bads"] = list(bads)
    return export(raw, path)


@pytest.mark.parametrize("second", [("Oz", "Cz", "Fz"), ("FZ", "CZ", "OZ"), ("Fz ", "oz", "Cz")])
def test_order_and_letters(tmp_path: Path, cut: Cut, second: tuple[str, ...]) -> None:
    paths = [record(tmp_path / "a_raw.fif", ("Fz", "Cz", "Oz")), record(tmp_path / "b_raw.fif", second)]
    with pytest.raises(
        UserError, match=r"b_raw\.fif has the channels of a_raw\.fif in another order.*--channels by-name"
    ):
        cut(*paths)
    source = cut(*paths, channels="by-name")
    assert source.metadata().channel_names == ("Fz", "Cz", "Oz")
    segments = [segment.eeg for segment in source.segments()]
    for one, other in zip(segments[:3], segments[3:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_channels_that_one_recording_lacks_are_named(tmp_path: Path, cut: Cut) -> None:
    paths = [
        record(tmp_path / "a_raw.fif", ("Fz", "Cz", "Oz")),
        record(tmp_path / "b_raw.fif", ("OZ", "Fz", "Cz", "Pz"), bads=("Cz",)),
    ]
    for rule in ("same", "by-name"):
        with pytest.raises(UserError) as error:
            cut(*paths, channels=rule)
        text = str(error.value)
        assert "b_raw.fif, compared with a_raw.fif, lacks Cz (marked bad) and has Pz beside them" in text
        assert "--channels common" in text
        assert "--interpolate-bads" in text
    source = cut(*paths, channels="common")
    assert source.metadata().channel_names == ("Fz", "Oz")
    assert any(
        "2 channels that not all recordings have are left out: Cz (in 1 of 2), Pz (in 1 of 2)" in n
        for n in source.notes
    )
    segments = [segment.eeg for segment in source.segments()]
    np.testing.assert_array_equal(segments[0], segments[3])


def test_nothing_in_common_and_twice_the_same(tmp_path: Path, cut: Cut) -> None:
    first = record(tmp_path / "a_raw.fif", ("Fz", "Cz"))
    with pytest.raises(UserError, match="no channel is in all 2 recordings"):
        cut(first, record(tmp_path / "b_raw.fif", ("Oz", "Pz")), channels="common")
    with pytest.raises(UserError, match="channels 'Fz' and 'FZ', which have one name"):
        cut(record(tmp_path / "c_raw.fif", ("Fz", "FZ")))


def test_rates_must_agree_or_be_made_to(tmp_path: Path, cut: Cut) -> None:
    first = record(tmp_path / "a_raw.fif", ("Fz", "Cz"))
    fast = export(annotate(make_raw(20, 500.0, names=("Fz", "Cz")), regular_events(3)), tmp_path / "b_raw.fif")
    with pytest.raises(UserError, match=r"b_raw\.fif has a sampling rate of 500 Hz, a_raw\.fif has 200 Hz.*--resample"):
        cut(first, fast)
    assert cut(first, fast, resample=100.0).metadata().sfreq == 100
