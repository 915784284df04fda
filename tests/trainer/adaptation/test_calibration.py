"""Calibration data: nested amounts, no test stimuli, minutes by onsets or by segments."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from new_subject_study import INTERVAL_S, N_SAMPLES, NEW, SFREQ, write_new_subject_study

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.adaptation.calibration import (
    SubjectSegments,
    amounts,
    calibration_order,
    presentation_interval,
    subject_segments,
)

Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path, tiny_diffusion_folder: Path) -> Make:
    def made(**options: object) -> Dataset:
        return Dataset.open(write_new_subject_study(tmp_path / "data", tiny_diffusion_folder, **options))  # type: ignore[arg-type]

    return made


def test_the_segments_of_one_subject_are_divided_by_stimulus(new_subject_data: Path) -> None:
    dataset = Dataset.open(new_subject_data)
    found = subject_segments(dataset, NEW)
    index = dataset.index
    assert set(index.subject[np.concatenate([found.test, found.calibration])]) == {NEW}
    assert len(found.test) + len(found.calibration) == (index.subject == NEW).sum()
    assert set(index.split[found.test]) == {"test"}
    assert set(index.split[found.calibration]) == {"train", "val"}
    assert found.num_shown_in_test == 0


def test_a_segment_whose_stimulus_is_tested_is_no_calibration_data(make: Make) -> None:
    dataset = make(repeated=5)
    found = subject_segments(dataset, NEW)
    assert found.num_shown_in_test == 5
    tested = set(dataset.index.stimulus[dataset.rows("test")].tolist())
    assert not tested & set(dataset.index.stimulus[found.calibration].tolist())


def test_the_interval_is_that_of_the_onsets_without_breaks(new_subject_data: Path) -> None:
    """Every 50 segments there is a break of a minute."""
    found = subject_segments(Dataset.open(new_subject_data), NEW)
    assert found.interval_s == pytest.approx(INTERVAL_S)
    assert "from one onset to the next" in found.interval_text
    assert found.minutes == pytest.approx(len(found.calibration) * INTERVAL_S / 60)


def test_without_onsets_a_segment_stands_for_its_own_length(make: Make) -> None:
    found = subject_segments(make(onsets=False), NEW)
    assert found.interval_s == pytest.approx(N_SAMPLES / SFREQ)
    assert "the length of a segment" in found.interval_text


def test_one_unknown_onset_makes_the_interval_unknown(new_subject_data: Path) -> None:
    dataset = Dataset.open(new_subject_data)
    rows = np.flatnonzero(dataset.index.subject == NEW)
    dataset.index.onset_s[rows[3]] = np.nan
    interval, _ = presentation_interval(dataset.index, rows, n_samples=N_SAMPLES, sfreq=SFREQ)
    assert interval == N_SAMPLES / SFREQ


@pytest.mark.parametrize("order", ["random", "time"])
def test_more_minutes_hold_the_segments_of_fewer(new_subject_data: Path, order: str) -> None:
    dataset = Dataset.open(new_subject_data)
    found = subject_segments(dataset, NEW)
    rows = calibration_order(dataset, found.calibration, order=order, seed=7)  # type: ignore[arg-type]
    assert sorted(rows) == sorted(found.calibration)
    sizes, _ = amounts([0.1, 0.3, 0.7], found)
    taken = [set(rows[: size.num_segments].tolist()) for size in sizes]
    assert [len(each) for each in taken] == [12, 36, 84]
    assert taken[0] < taken[1] < taken[2]


def test_random_orders_are_the_seeds_own_and_time_is_the_recordings(new_subject_data: Path) -> None:
    dataset = Dataset.open(new_subject_data)
    rows = subject_segments(dataset, NEW).calibration
    first, again, other = (calibration_order(dataset, rows, order="random", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    shuffled = np.random.default_rng(0).permutation(rows)
    timed = calibration_order(dataset, shuffled, order="time", seed=1)
    assert (np.diff(dataset.index.onset_s[timed]) > 0).all()


def test_an_unknown_order_of_recording_is_refused_by_name(make: Make) -> None:
    dataset = make(onsets=False)
    rows = subject_segments(dataset, NEW).calibration
    with pytest.raises(UserError, match=r"does not say when its segments were recorded.*--order random"):
        calibration_order(dataset, rows, order="time", seed=0)


def segments(number: int, interval_s: float = 0.5) -> SubjectSegments:
    return SubjectSegments(
        calibration=np.arange(number),
        test=np.arange(number, number + 3),
        interval_s=interval_s,
        interval_text="",
        num_shown_in_test=0,
    )


def test_minutes_become_segments() -> None:
    sizes, notes = amounts([5, 1, 1], segments(900))
    assert [(size.minutes, size.num_segments) for size in sizes] == [(1.0, 120), (5.0, 600)]
    assert not notes


def test_more_minutes_than_there_are_become_all_and_are_named() -> None:
    sizes, notes = amounts([1, 5, 15], segments(300))
    assert [(size.minutes, size.num_segments) for size in sizes] == [(1.0, 120), (2.5, 300)]
    assert notes == ["there are 2.5 minutes of calibration data (300 segments); 5 and 15 minutes are cut to that"]


@pytest.mark.parametrize("wrong", [0.0, -1.0, 0.01])
def test_minutes_that_are_none_are_wrong_usage(wrong: float) -> None:
    with pytest.raises(UsageError, match="--minutes"):
        amounts([1.0, wrong], segments(900))


def test_a_subject_without_calibration_or_test_segments_is_refused(make: Make) -> None:
    dataset = make(split_of_new="test", num_stimuli=40)
    with pytest.raises(UserError, match=r"0 segments of subject 3 to calibrate with.*data\.subjects"):
        subject_segments(dataset, NEW)
    with pytest.raises(UserError, match="has no segments of subject 9; it has those of 1, 2, 3"):
        subject_segments(dataset, 9)
    dataset.index.split_code[dataset.index.subject == NEW] = 0
    del dataset.index.__dict__["split"]  # cached
    with pytest.raises(UserError, match="no test segments of subject 3"):
        subject_segments(dataset, NEW)
