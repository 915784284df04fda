"""`data verify`: every byte counts, and the report names the place."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def test_a_sound_data_set_has_no_problems(make_dataset) -> None:
    assert list(verify(make_dataset(60).folder)) == []


@pytest.mark.parametrize("part", ["segments", "stimuli"])
def test_every_flipped_byte_is_found_and_its_sample_named(make_dataset, part: str) -> None:
    dataset = make_dataset(12, n_samples=20)
    path = dataset.folder / part / "00000.tar"
    size = path.stat().st_size
    keys = dataset.index.key if part == "segments" else dataset.stimuli.keys
    offsets = dataset.index.offset if part == "segments" else dataset.stimuli.offset
    for offset in [0, 600, *np.random.default_rng(1).integers(0, size - 1024, 60).tolist()]:
        _flip(path, offset)
        problems = list(verify(dataset.folder))
        assert problems, offset
        owner = keys[np.searchsorted(offsets - 512, offset, side="right") - 1]
        assert any(str(path) in problem and owner in problem and "offset" in problem for problem in problems)
        _flip(path, offset)
    _flip(path, size - 1)
    assert any("end of the archive" in problem for problem in verify(dataset.folder))


def test_cut_missing_and_stray_shards_are_named(make_dataset) -> None:
    dataset = make_dataset(60)
    path = dataset.folder / "segments" / "00001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    (dataset.folder / "segments" / "00000.tar").unlink()
    (dataset.folder / "stimuli" / "extra.tar").write_bytes(b"")
    problems = list(verify(dataset.folder))
    assert len(problems) == 3
    assert "extra.tar: this file is no part" in problems[0]
    assert "00000.tar: No such file" in problems[1]
    assert "00001.tar has" in problems[2]


def test_damaged_tables_are_refused(make_dataset) -> None:
    dataset = make_dataset(12)
    _flip(dataset.folder / "index.parquet", 100)
    with pytest.raises(UserError, match=r"index\.parquet is damaged or belongs to another"):
        list(verify(dataset.folder))
    (dataset.folder / "dataset.json").unlink()
    with pytest.raises(UserError, match="no data set at"):
        list(verify(dataset.folder))
