"""An array in a file."""

from pathlib import Path

import numpy as np

from neuroimagen.data_shards.sources.recordings.cutting.scratch import Scratch


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5, 123))
    scratch = Scratch(tmp_path / "file", 5, 150)
    for start in range(0, 123, 50):
        scratch.write(slice(None), start, values[:, start : start + 50])
    np.testing.assert_array_equal(scratch.read(slice(1, 3), 40, 110), values[1:3, 40:110].astype(np.float32))
    scratch.write(slice(4, 9), 0, values[4:, :60] * 2)  # the last group may be smaller
    np.testing.assert_array_equal(scratch.read(slice(None), 0, 60)[4], (values[4, :60] * 2).astype(np.float32))
    np.testing.assert_array_equal(scratch.read(slice(None), 123, 150), 0)
    assert (tmp_path / "file").stat().st_size == 4 * 5 * 150
