"""A subset of segments takes every stimulus, subject and class equally often, and is the same each time."""

import numpy as np
import pytest

from neuroimagen.trainer.reconstruction.segment_subset import even_subset


def study(num_subjects: int = 4, num_stimuli: int = 24, repetitions: int = 2) -> dict[str, np.ndarray]:
    """Every subject saw every stimulus `repetitions` times, in an order of its own; 6 stimuli a class."""
    rng = np.random.default_rng(0)
    shown = np.repeat(np.arange(num_stimuli), repetitions)
    stimuli = np.concatenate([rng.permutation(shown) for _ in range(num_subjects)])
    subjects = np.repeat(np.arange(num_subjects) + 1, len(shown))
    return {"rows": np.arange(len(stimuli)) + 100, "stimuli": stimuli, "subjects": subjects, "labels": stimuli // 6}


def counts(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_counts=True)[1]


@pytest.mark.parametrize("num", [4, 7, 12, 24, 48, 60, 191])
def test_stimuli_subjects_and_classes_are_taken_equally_often(num: int) -> None:
    columns = study()
    rows = even_subset(**columns, num=num)
    places = rows - 100
    assert len(set(rows.tolist())) == num
    assert (np.diff(rows) > 0).all()
    of_stimulus = np.bincount(columns["stimuli"][places], minlength=24)
    assert np.ptp(of_stimulus) <= 1
    assert np.ptp(np.bincount(columns["subjects"][places], minlength=5)[1:]) <= 1
    assert np.ptp(np.bincount(columns["labels"][places], minlength=4)) <= 1
    np.testing.assert_array_equal(rows, even_subset(**columns, num=num))


def test_all_are_taken_where_there_are_no_more() -> None:
    columns = study()
    assert even_subset(**columns, num=None) is columns["rows"]
    assert even_subset(**columns, num=192) is columns["rows"]
    assert even_subset(**columns, num=10_000) is columns["rows"]


def test_subjects_that_saw_different_stimuli_all_take_part() -> None:
    """Each stimulus was shown to one subject only."""
    stimuli = np.arange(40)
    columns = {"stimuli": stimuli, "subjects": stimuli % 4, "labels": stimuli // 10, "rows": stimuli}
    rows = even_subset(**columns, num=20)
    assert len(rows) == 20
    assert counts(columns["labels"][rows]).tolist() == [5, 5, 5, 5]
    assert counts(columns["subjects"][rows]).tolist() == [5, 5, 5, 5]


def test_a_stimulus_with_few_segments_is_taken_as_often_as_it_has_them() -> None:
    stimuli = np.array([0, 1, 1, 1, 2, 2, 2])
    rows = even_subset(np.arange(7), stimuli=stimuli, subjects=np.array([1, 1, 2, 3, 1, 2, 3]), labels=stimuli, num=5)
    assert counts(stimuli[rows]).tolist() == [1, 2, 2]
