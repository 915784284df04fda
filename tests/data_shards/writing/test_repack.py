"""Repacking: other shards and another order, the same samples to the bit."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.writing.repack import repack, repacked_order
from neuroimagen.launch.cli import main


@pytest.mark.parametrize("order", ["kept", "shuffled"])
def test_samples_stay_the_same_to_the_bit(make_dataset, tmp_path: Path, order: str) -> None:
    old = make_dataset(300)
    made = repack(old, tmp_path / "new", order=order, seed=4, shard_bytes=1 << 17)
    assert len(made.segments) < len(old.segments)
    rows = repacked_order(300, order, 4)
    assert (np.diff(rows) == 1).all() == (order == "kept")
    for new_row, old_row in enumerate(rows.tolist()):
        assert bytes(made.eeg_bytes(new_row)) == bytes(old.eeg_bytes(old_row))
    for column in ("scale", "label", "stimulus", "subject", "block", "order", "split_code"):
        np.testing.assert_array_equal(getattr(made.index, column), getattr(old.index, column)[rows])
    assert made.stimuli.keys == old.stimuli.keys
    assert made.stimuli.detailed_captions == old.stimuli.detailed_captions
    assert made.metadata.storage == old.metadata.storage
    assert made.metadata.provenance["repacked"][-1]["from"] == old.digest
    assert list(verify(made.folder)) == []


def test_there_and_back_gives_the_same_tars(make_dataset, tmp_path: Path) -> None:
    old = make_dataset(200)
    repack(old, tmp_path / "large", shard_bytes=1 << 20)
    from neuroimagen.data_shards.dataset.dataset import Dataset

    again = repack(Dataset.open(tmp_path / "large"), tmp_path / "back", shard_bytes=1 << 16)
    for path in sorted(old.folder.rglob("*.tar")):
        assert path.read_bytes() == (again.folder / path.relative_to(old.folder)).read_bytes()
    assert again.digest == old.digest


def test_latents_come_along_and_damage_is_named(make_dataset, tmp_path: Path) -> None:
    old = make_dataset(40)
    store = old.folder / "latents" / "vae-x-123"
    store.mkdir(parents=True)
    (store / "latents.json").write_text("{}")
    (old.folder / "latents" / ".vae-y.part").mkdir()
    made = repack(old, tmp_path / "new")
    assert [path.name for path in (made.folder / "latents").iterdir()] == ["vae-x-123"]
    shard = old.folder / "segments" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[int(old.index.offset[3]) + 200] ^= 1
    shutil.copy(shard, tmp_path / "kept.tar")
    shard.write_bytes(content)
    with pytest.raises(UserError, match="segment 000000003"):
        repack(old, tmp_path / "other")
    assert not list(tmp_path.glob("*other*"))
    with pytest.raises(UserError, match="the data set itself"):
        repack(old, old.folder)


def test_the_command(make_dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "repack", str(make_dataset(40).folder), "--out", str(tmp_path / "new"), "--order", "shuffled"]
    assert main(words) == 0
    assert f"data set: {tmp_path / 'new'}" in capsys.readouterr().out
