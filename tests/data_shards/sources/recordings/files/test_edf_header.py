"""What the header of an EDF file says that MNE does not."""

from pathlib import Path

import numpy as np
import pytest
from recording_files import write_edf

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.files.edf_header import read_edf_header, record_onsets

NOISE = np.random.default_rng(0).standard_normal(1000)


def test_rates_units_and_record_onsets(tmp_path: Path) -> None:
    onsets = [0.0, 1.0, 5.5, 6.5, 60.25]
    signals = [("Fz", "uV", NOISE, 200), ("Resp", "degC", NOISE[:100], 20)]
    header = read_edf_header(write_edf(tmp_path / "a.edf", signals, record_onsets=onsets))
    assert header.is_discontinuous
    assert header.labels == ("Fz", "Resp", "EDF Annotations")
    assert header.signals == [0, 1]
    assert header.units[:2] == ("uV", "degC")
    assert header.rates_hz() == [200.0, 20.0]
    assert record_onsets(header).tolist() == onsets
    assert not read_edf_header(write_edf(tmp_path / "b.edf", signals)).is_discontinuous


def test_onsets_that_cannot_be_trusted(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [("Fz", "uV", NOISE, 200)], record_onsets=[0, 1, 2, 9, 10])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"+9\x14\x14", b"    "))
    with pytest.raises(UserError, match="data record 3 does not say when it began"):
        record_onsets(read_edf_header(path))
    path.write_bytes(content.replace(b"EDF Annotations", b"Something else "))
    with pytest.raises(UserError, match="no annotation signal"):
        record_onsets(read_edf_header(path))
    path.write_bytes(b"0" + b" " * 300)
    with pytest.raises(UserError, match="no readable EDF or BDF header"):
        read_edf_header(path)
