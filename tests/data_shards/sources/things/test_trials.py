"""The times of a file: which of them belong to the samples, and the sampling rate that they give."""

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.trials import checked_times, rate_of


def test_the_last_times_belong_to_the_samples_and_it_is_said() -> None:
    given = np.arange(300) / 250 - 0.2
    times, note = checked_times(given.tolist(), 250, where="a.npy")
    np.testing.assert_array_equal(times, given[50:])
    assert note == "300 times for 250 samples: the last 250 are taken, 0.000 to 0.996 s"
    assert rate_of(times, where="a.npy") == 250.0
    assert checked_times(given, 300, where="a.npy")[1] is None


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.arange(249) / 250, "249 times for 250 samples"),
        (np.zeros(250), "do not ascend"),
        (np.arange(250)[::-1] / 250, "do not ascend"),
        (np.where(np.arange(250) == 7, np.nan, np.arange(250)), "do not ascend"),
        (np.concatenate([np.arange(249) / 250, [5.0]]), "are not evenly spaced"),
    ],
)
def test_times_that_no_clock_gives_are_refused(times: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"a.npy: .*{message}"):
        checked_times(times, 250, where="a.npy")


def test_rates_that_no_eeg_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"0\.25 Hz; are they milliseconds"):
        rate_of(np.arange(250) * 4.0, where="a.npy")
    with pytest.raises(UserError, match="do not give a sampling rate"):
        rate_of(np.zeros(1), where="a.npy")
