"""An encoder's identity is what JSON keeps of it."""

import pytest

from neuroimagen.data_shards.frozen_models.encoder import CHECK_TOLERANCE, DTYPES, EncoderIdentity


def identity(**preprocessing: object) -> EncoderIdentity:
    return EncoderIdentity(model_id="m", revision="r", preprocessing=preprocessing, shape=(3,))


def test_preprocessing_compares_equal_to_what_a_store_says() -> None:
    assert identity(grid=(4, 4)).preprocessing == {"grid": [4, 4]}
    assert identity(grid=(4, 4)) == identity(grid=[4, 4])


def test_preprocessing_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="JSON"):
        identity(view=object())


def test_every_dtype_has_a_tolerance_above_its_rounding() -> None:
    assert DTYPES == ("float16", "bfloat16", "float32")
    for dtype, rounding in {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}.items():
        assert CHECK_TOLERANCE[dtype] > 2 * rounding
