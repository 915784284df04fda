"""latents.json: what enters a store's name, and what is refused when it is read."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_format import LatentMetadata
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.schema import metadata_digest
from neuroimagen.data_shards.latent_cache.cache import LatentCache

METADATA = LatentMetadata(
    kind="vae",
    model_id="Stable Diffusion v1.5!",
    revision="r" * 64,
    preprocessing={"size_px": 64},
    shape=(2, 3),
    dtype="float16",
    inputs="i" * 64,
    shard_items=256,
)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "image"},
        {"revision": "s" * 64},
        {"preprocessing": {"size_px": 32}},
        {"shape": (3, 2)},
        {"dtype": "float32"},
        {"inputs": "j" * 64},
        {"shard_items": 128},
    ],
)
def test_what_decides_the_stored_bytes_decides_the_name(change: dict[str, object]) -> None:
    assert METADATA.name == f"vae-stable-diffusion-v1-5-{METADATA.digest}"
    assert dataclasses.replace(METADATA, **change).digest != METADATA.digest  # type: ignore[arg-type]


def test_what_is_for_people_or_known_afterwards_does_not() -> None:
    for change in ({"model_id": "renamed"}, {"num_latents": 7}, {"shard_bytes": (512,)}, {"index_sha256": "x"}):
        assert dataclasses.replace(METADATA, **change).digest == METADATA.digest  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_header_is_numpy_s(dtype: str, tmp_path: Path) -> None:
    metadata = dataclasses.replace(METADATA, dtype=dtype)
    numbers = np.arange(6).reshape(2, 3).astype(metadata.storage_dtype)
    (tmp_path / "latent.npy").write_bytes(metadata.npy_header + numbers.tobytes())
    assert (tmp_path / "latent.npy").stat().st_size == metadata.npy_bytes
    assert np.array_equal(np.load(tmp_path / "latent.npy", allow_pickle=False), numbers)


def test_metadata_survives_its_own_json(tmp_path: Path) -> None:
    (tmp_path / "latents.json").write_text(METADATA.to_json())
    assert LatentMetadata.read(tmp_path) == METADATA
    (tmp_path / "latents.json").write_text(METADATA.to_json().replace('"vae"', '"image"'))
    with pytest.raises(UserError, match="was changed after it was written"):
        LatentMetadata.read(tmp_path)
    (tmp_path / "latents.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*latents\.json"):
        LatentMetadata.read(tmp_path)
    with pytest.raises(UserError, match="no latent store at"):
        LatentMetadata.read(tmp_path / "nowhere")


def test_hostile_latent_metadata_is_refused(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    """Edited together with its own digest, as an attacker would."""
    folder = LatentCache(dataset, tiny_diffusion_folder).cache("pooled-class").store.folder
    sound = json.loads((folder / "latents.json").read_text())
    del sound["sha256"]
    edits = (
        {"shape": [1 << 19, 1 << 19]},
        {"shape": 7},
        {"shape": ["8"]},
        {"shard_bytes": None},
        {"num_stimuli": "many"},
        {"kind": 3},
        {"dtype": "object"},
        {"extra": 1},
    )
    for edit in edits:
        forged = {**sound, **edit}
        (folder / "latents.json").write_text(json.dumps({**forged, "sha256": metadata_digest(forged)}))
        with pytest.raises(UserError, match=r"latents\.json"):
            LatentStore.open(folder)
    (folder / "latents.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"latents\.json"):
        LatentStore.open(folder)
