"""Finding and reading latents: never another model's, nor those of other stimuli; damage is named."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_diffusion_folder

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.data_shards.remote.files import RemoteOptions


def test_get_takes_rows_in_any_order_with_repeats(cached: tuple) -> None:
    _, _, stores = cached
    for store in (stores["vae"].store, stores["text-class"].store):
        everything = store.get(np.arange(14))
        rows = [13, 0, 0, 12, 5]
        assert torch.equal(store.get(rows), everything[rows])
        assert store.get([]).shape == (0, *store.metadata.shape)


def test_dataset_finds_its_latents(cached: tuple, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    dataset, _, stores = cached
    moved = shutil.copytree(tiny_diffusion_folder, tmp_path / "renamed")
    for kind in stores:
        assert dataset.latents(kind, model=str(moved)).folder == stores[kind].store.folder


def test_another_model_is_never_served(cached: tuple, tmp_path: Path) -> None:
    from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES

    dataset, _, stores = cached
    other = build_tiny_diffusion_folder(
        tmp_path / "tiny-diffusion", class_names=[item.wnid for item in CLASSES], seed=1
    )
    for kind in ("vae", "text-class", "image"):
        with pytest.raises(UserError, match=rf"no {kind} latents.*{stores[kind].store.folder.name}.*neuroimagen cache"):
            dataset.latents(kind, model=str(other))


def test_a_tower_s_own_folder_finds_its_embeddings_and_is_named_where_there_are_none(
    cached: tuple, dataset: Dataset, tiny_diffusion_folder: Path
) -> None:
    clip = tiny_diffusion_folder / "clip"
    assert cached[0].latents("image", model=str(clip)).folder == cached[2]["image"].store.folder
    with pytest.raises(UserError, match=f" --towers image={clip} --kinds image"):
        dataset.latents("image", model=str(clip))


def test_changed_tokenizer_or_image_size_is_another_model(
    cached: tuple, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    dataset, _, _ = cached
    model = shutil.copytree(tiny_diffusion_folder, tmp_path / "model")
    merges = model / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text() + "d o\n")
    unet = model / "unet" / "config.json"
    unet.write_text(json.dumps(json.loads(unet.read_text()) | {"sample_size": 16}))
    for kind in ("vae", "text-class", "pooled-class"):
        with pytest.raises(UserError, match=f"no {kind} latents"):
            dataset.latents(kind, model=str(model))
    assert dataset.latents("image", model=str(model))


def test_latents_of_other_stimuli_are_never_served(
    cached: tuple, make_tiny_dataset: Callable[..., Path], tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    dataset, _, _ = cached
    other = Dataset.open(make_tiny_dataset(tmp_path / "data", num_stimuli=13))
    shutil.copytree(dataset.folder / "latents", other.folder / "latents")
    for kind in ("vae", "text-class"):
        with pytest.raises(UserError, match=f"no {kind} latents"):
            other.latents(kind, model=str(tiny_diffusion_folder))


def test_two_fitting_stores_are_refused(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    for dtype in ("float16", "float32"):
        LatentCache(dataset, tiny_diffusion_folder, dtype=dtype).cache("text-class")
    with pytest.raises(UserError, match="2 stores of text-class"):
        dataset.latents("text-class", model=str(tiny_diffusion_folder))


def test_shards_are_plain_webdataset_tars(cached: tuple) -> None:
    import webdataset

    _, _, stores = cached
    store = stores["text-blip"].store
    shards = sorted(str(path) for path in store.folder.glob("*.tar"))
    assert len(shards) == 3
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == store.stimulus_keys
    assert [json.loads(sample["json"])["text"] for sample in samples] == store.texts
    with tarfile.open(shards[0]) as tar:
        member = tar.getmembers()[0]
        content = tar.extractfile(member)
        assert content is not None
        array = np.load(io.BytesIO(content.read()), allow_pickle=False)
    assert member.name == f"{store.stimulus_keys[0]}.latent.npy"
    assert array.dtype == np.float16
    assert np.array_equal(array.astype(np.float32), store.get([0])[0].numpy())


def test_damaged_latent_is_named(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    folder = LatentCache(dataset, tiny_diffusion_folder).cache("pooled-class").store.folder
    shard = folder / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[512 + 130] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptSampleError, match=r"00000\.tar: latent caption-\w+ at offset 512 is damaged"):
        LatentStore.open(folder).get([0])
    shard.write_bytes(content[:-2000])
    with pytest.raises(CorruptSampleError, match=r"00000\.tar has .* bytes"):
        LatentStore.open(folder).get([0])


def test_latents_of_a_remote_data_set_are_read_there_or_made_here(
    dataset: Dataset, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    options = RemoteOptions(cache_folder=tmp_path / "node", cache_bytes=1 << 20, block_bytes=5000)
    there = LatentCache(dataset, tiny_diffusion_folder, shard_items=4).cache("pooled-class").store
    remote = Dataset.open(f"file://{dataset.folder}", remote_options=options)
    found = remote.latents("pooled-class", model=str(tiny_diffusion_folder))
    assert torch.equal(found.get(range(14)), there.get(range(14)))
    assert list(verify(f"file://{dataset.folder}")) == []
    with pytest.raises(UserError, match="neuroimagen cache --data file://"):
        remote.latents("text-class", model=str(tiny_diffusion_folder))
    made = LatentCache(remote, tiny_diffusion_folder).cache("text-class").store
    assert made.folder.is_relative_to(tmp_path / "node")
    assert remote.latents("text-class", model=str(tiny_diffusion_folder)).folder == made.folder
    assert not list((dataset.folder / "latents").glob("text-class-*"))
