"""`data verify`: every byte counts, and the report names the place."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.latent_cache.cache import LatentCache


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def test_a_sound_data_set_has_no_problems(make_dataset) -> None:
    assert list(verify(make_dataset(60).folder)) == []


@pytest.mark.parametrize("folder", ["segments", "stimuli"])
def test_every_flipped_byte_is_found_and_its_sample_named(make_dataset, folder: str) -> None:
    dataset = make_dataset(12, n_samples=20)
    path = dataset.folder / folder / "00000.tar"
    size = path.stat().st_size
    keys = dataset.index.key if folder == "segments" else dataset.stimuli.keys
    offsets = dataset.index.offset if folder == "segments" else dataset.stimuli.offset
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
    assert "extra.tar: this file does not belong" in problems[0]
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


def test_verify_covers_every_byte_of_the_latents(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    folder = LatentCache(dataset, tiny_diffusion_folder, shard_items=2).cache("pooled-class").store.folder
    assert list(verify(dataset.folder)) == []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 25)):
            path.unlink()  # a new file: the old one may be mapped
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            problems = list(verify(dataset.folder))
            assert problems, f"a flipped bit at {place} of {path.name} goes unnoticed"
            assert all(folder.name in problem for problem in problems)
        path.write_bytes(content[:-1])
        assert list(verify(dataset.folder))
        path.write_bytes(content)
    (folder / "stray.tar").write_bytes(b"")
    assert [problem.split(":")[0] for problem in verify(dataset.folder)] == [str(folder / "stray.tar")]
    (folder / "stray.tar").unlink()
    folder.rename(folder.with_name("pooled-class-x-000000000000"))
    assert "its latents.json is that of" in next(verify(dataset.folder))
