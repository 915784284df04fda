"""The writer of latent stores: shares, records, texts, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_format import LatentMetadata
from neuroimagen.data_shards.dataset.latent_items import LatentItems
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.latent_cache.write import LatentWriter


def metadata(dtype: str = "float32") -> LatentMetadata:
    return LatentMetadata(
        kind="vae",
        model_id="model",
        revision="r" * 64,
        preprocessing={},
        shape=(3,),
        dtype=dtype,
        inputs="i" * 64,
        shard_items=2,
    )


ITEMS = LatentItems(
    keys=["a", "b", "c", "d", "e"],
    texts=None,
    stimulus_keys=["s0", "s1", "s2", "s3", "s4", "s5"],
    latent_of=np.array([4, 0, 1, 1, 2, 3]),
    digest="i" * 64,
)
LATENTS = torch.arange(15, dtype=torch.float32).reshape(5, 3)


def write_all(writer: LatentWriter, texts: list[str] | None = None) -> LatentStore:
    for shard in writer.pending():
        rows = writer.rows(shard)
        own = None if texts is None else texts[rows.start : rows.stop]
        writer.write(shard, LATENTS[rows.start : rows.stop], own)
    return writer.finish()


def test_latents_come_back_by_stimulus(tmp_path: Path) -> None:
    store = write_all(LatentWriter(tmp_path, metadata(), ITEMS), ["1", "2", "3", "4", "5"])
    assert torch.equal(store.get(range(6)), LATENTS[[4, 0, 1, 1, 2, 3]])
    assert store.texts == ["5", "1", "2", "2", "3", "4"]
    assert (store.metadata.num_latents, store.metadata.num_stimuli) == (5, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [store.folder.name]


def test_ranks_share_shards_by_number(tmp_path: Path) -> None:
    writer = LatentWriter(tmp_path, metadata(), ITEMS)
    assert [list(writer.rows(shard)) for shard in range(writer.num_shards)] == [[0, 1], [2, 3], [4]]
    assert (writer.pending(rank=0, world_size=2), writer.pending(rank=1, world_size=2)) == ([0, 2], [1])
    writer.write(0, LATENTS[:2])
    # What one rank has finished does not change what another's share is.
    assert (writer.pending(rank=0, world_size=2), writer.pending(rank=1, world_size=2)) == ([2], [1])


def test_another_process_continues_to_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = write_all(LatentWriter(tmp_path / "one", metadata(), ITEMS)).folder
    first = LatentWriter(tmp_path / "two", metadata(), ITEMS)
    first.write(1, LATENTS[2:4])
    (unfinished,) = (tmp_path / "two").iterdir()
    assert unfinished.name == f".{metadata().name}.part"  # the name that earlier versions leave behind
    (unfinished / "00002.tar").write_bytes(b"cut short, and without a record")
    second = LatentWriter(tmp_path / "two", metadata(), ITEMS)
    assert second.pending() == [0, 2]
    continued = write_all(second).folder
    for path in undisturbed.iterdir():
        assert path.read_bytes() == (continued / path.name).read_bytes()
    assert len(list(continued.iterdir())) == len(list(undisturbed.iterdir()))


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16"), (float("inf"), "bfloat16")])
def test_numbers_that_are_not_finite_are_refused_before_anything_is_written(
    tmp_path: Path, value: float, dtype: str
) -> None:
    writer = LatentWriter(tmp_path, metadata(dtype), ITEMS)
    latents = LATENTS[2:4].clone()
    latents[1, 2] = value
    with pytest.raises(UserError, match=f"vae latent of d holds NaN or infinity as {dtype}"):
        writer.write(1, latents)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write into .*file"):
        LatentWriter(tmp_path / "file", metadata(), ITEMS)


def test_two_jobs_that_finish_the_same_store(tmp_path: Path) -> None:
    writer = LatentWriter(tmp_path, metadata(), ITEMS)
    write_all(writer)
    late = LatentWriter(tmp_path, metadata(), ITEMS)
    with pytest.raises(UserError, match="Is another job caching the same latents"):
        write_all(late)
    assert json.loads((writer.folder / "latents.json").read_text())["num_latents"] == 5


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"num_bytes": 1, "sha256": "", "offsets": [], "crc32": []}'])
def test_a_damaged_record_of_a_shard_is_named(tmp_path: Path, content: str) -> None:
    writer = LatentWriter(tmp_path, metadata(), ITEMS)
    for shard in writer.pending():
        rows = writer.rows(shard)
        writer.write(shard, LATENTS[rows.start : rows.stop])
    record = next(tmp_path.glob(".*.part/00001.json"))
    record.write_text(content)
    with pytest.raises(UserError, match=rf"cannot finish .*Remove {record.parent}, and run the same command again"):
        writer.finish()
