"""float16 storage: exact scaling, bounded error at any magnitude."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.format.encoding import RoundTripError, decode_eeg, encode_eeg


@given(exponent=st.integers(-25, 30), seed=st.integers(0, 1000))
def test_error_is_within_half_a_unit_of_float16(exponent: int, seed: int) -> None:
    eeg = (np.random.default_rng(seed).standard_normal((3, 17)) * 10.0**exponent).astype(np.float32)
    stored, scale = encode_eeg(eeg)
    assert stored.dtype == np.float16
    assert np.isfinite(stored).all()
    assert np.frexp(scale)[0] == 0.5  # a power of two
    assert_as_stored(decode_eeg(stored, scale), eeg)


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(1.0, 1.0), (4.5, 1.0), (32767.9, 1.0), (0.0, 1.0), (0.99, 2.0**-15), (32768.0, 2.0), (3e-5, 2.0**-30)],
)
def test_amplitudes_that_need_no_scale_have_none(largest: float, expected: float) -> None:
    assert encode_eeg(np.array([[largest, -largest / 3]], dtype=np.float32))[1] == expected


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 32767.0, -32768.0, 2.0**-100, 3e38, 65504.0, 1 / 3])
def test_single_values(value: float) -> None:
    stored, scale = encode_eeg(np.full((1, 2), value, dtype=np.float32))
    np.testing.assert_allclose(decode_eeg(stored, scale), np.float32(value), rtol=2.0**-11)


def test_round_trip_error_is_relative_to_the_segment() -> None:
    error = RoundTripError()
    eeg = np.array([[1.0, -1.0, 1.0 + 2**-11]], dtype=np.float32)
    error.add(eeg, *encode_eeg(eeg))
    error.add(np.zeros((1, 3), dtype=np.float32), np.zeros((1, 3), dtype=np.float16), 1.0)
    summary = error.summary()
    assert summary["round_trip_largest_error"] == pytest.approx(2**-11, rel=0.01)
    assert summary["round_trip_rms_error"] == pytest.approx(2**-11 / np.sqrt(3), rel=0.01)
