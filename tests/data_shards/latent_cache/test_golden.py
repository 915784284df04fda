"""Stores keep their names and bytes from version to version: a cache of an earlier one is found, never made again."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.data_shards.latent_cache.write import LatentWriter

CONFIGURATIONS: dict[str, dict[str, object]] = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
    "vae/config.json": {"latent_channels": 4, "block_out_channels": [8, 16], "scaling_factor": 0.5},
    "unet/config.json": {"sample_size": 4},
    "text_encoder/config.json": {"max_position_embeddings": 5, "hidden_size": 3},
    "tokenizer/vocab.json": {"a": 0},
    "clip/config.json": {"vision_config": {}, "projection_dim": 6},
}
GOLDEN = [
    ("float16", "vae-tiny-model-abae5ea6846a", "76ea46ed4ad7ec24"),
    ("float16", "text-class-tiny-model-900eb6316c72", "df8b722969a41678"),
    ("float16", "text-detailed-tiny-model-93f4027ce870", "51573eb478755cfe"),
    ("float16", "text-blip-tiny-model-e7c85104f730", "d365482c0406cd10"),
    ("float16", "pooled-class-tiny-model-74a23fd4e7fd", "e8b1668b5c409c0b"),
    ("float16", "pooled-detailed-tiny-model-100d5582314e", "886c4ff2b4499cf9"),
    ("float16", "pooled-blip-tiny-model-2b80fdcc925b", "a2a3aa44cdc636d4"),
    ("float16", "image-tiny-model-a148e93e7a18", "51505a168453a913"),
    ("bfloat16", "vae-tiny-model-8ed1bda21723", "26f52277700ca1eb"),
    ("bfloat16", "text-class-tiny-model-38535f4da37b", "f49887007212c93c"),
    ("bfloat16", "text-detailed-tiny-model-2568ea29a036", "1b54e392a020b05f"),
    ("bfloat16", "text-blip-tiny-model-cc95f0034c2b", "5a90d894c8500f9b"),
    ("bfloat16", "pooled-class-tiny-model-d7c01686f56f", "c7eb5f5e981e8809"),
    ("bfloat16", "pooled-detailed-tiny-model-35a8cdf82f87", "e2cea1b7b1d4698f"),
    ("bfloat16", "pooled-blip-tiny-model-ff87c2526a65", "c8ba81bde5b01f50"),
    ("bfloat16", "image-tiny-model-29b09cf09dc7", "84bd8425fb3a6e7a"),
    ("float32", "vae-tiny-model-d7daebb3d421", "eb032b0aab8171cc"),
    ("float32", "text-class-tiny-model-d07f54e18bb9", "f4fb1f1971d394ff"),
    ("float32", "text-detailed-tiny-model-f1bd647e5a38", "1fa26c95dd3a5ef2"),
    ("float32", "text-blip-tiny-model-9acb89fa3d08", "46c702cedc8e359b"),
    ("float32", "pooled-class-tiny-model-206b571fa7f6", "1ee7d2e1272610a9"),
    ("float32", "pooled-detailed-tiny-model-63e1b1499c74", "3a2d66cea2601dcd"),
    ("float32", "pooled-blip-tiny-model-b355c4cd0c60", "fb5371f5045aa308"),
    ("float32", "image-tiny-model-54b5638ebad1", "0167d388627e0ec9"),
]
"""Dtype, name of the store, first 16 digits of the SHA-256 of its tar. Made before image towers had a registry."""


class ThreeStimuli:
    keys = ("n1_0", "n1_1", "n2_0")
    captions = ("an image of a dog", "an image of a dog", "an image of a cat")
    detailed_captions = ("a dog", "a small dog", "a cat")
    crc32 = np.array([1, 2, 3], dtype=np.uint32)


class Data:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stimuli = ThreeStimuli()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model folder and a captioner's, as far as names need them: written here, so that no library can change them."""
    model, captioner = tmp_path / "tiny-model", tmp_path / "blip"
    for name, content in CONFIGURATIONS.items():
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        if path.parent != model:
            (path.parent / "model.safetensors").write_bytes(f"weights of {path.parent.name}".encode())
    captioner.mkdir()
    (captioner / "config.json").write_text(json.dumps({"model_type": "blip"}))
    (captioner / "model.safetensors").write_bytes(b"weights of blip")
    return model, captioner


@pytest.mark.parametrize(("dtype", "name", "sha256"), GOLDEN)
def test_names_and_tars_are_those_of_earlier_versions(
    folders: tuple[Path, Path], tmp_path: Path, dtype: str, name: str, sha256: str
) -> None:
    kind = name.removesuffix(name[name.index("-tiny-model") :])
    model, captioner = folders
    cache = LatentCache(Data(tmp_path / "data"), model, captioner=captioner, dtype=dtype)  # type: ignore[arg-type]
    metadata, items = cache.describe(kind)
    assert metadata.name == name
    writer = LatentWriter(tmp_path, metadata, items)
    count = len(items.keys) * int(np.prod(metadata.shape))
    latents = (torch.arange(count, dtype=torch.float32) / 7).reshape(len(items.keys), *metadata.shape)
    writer.write(0, latents, ["x", "y", "z"] if "blip" in kind else None)
    store = writer.finish()
    assert hashlib.sha256((store.folder / "00000.tar").read_bytes()).hexdigest()[:16] == sha256


def test_metadata_is_that_of_earlier_versions(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, captioner = folders
    cache = LatentCache(Data(tmp_path / "data"), model, captioner=captioner)  # type: ignore[arg-type]
    image, blip = (json.loads(cache.describe(kind)[0].to_json()) for kind in ("image", "text-blip"))
    assert image == {
        "dtype": "float16",
        "index_sha256": "",
        "inputs": "88e2eb13d17447801d0009b0c9cbb0b1ddeacb08cf1c3114ed113b3e16abc170",
        "kind": "image",
        "model_id": "tiny-model",
        "num_latents": 0,
        "num_stimuli": 0,
        "preprocessing": {"picture": "own size, RGB", "processor": "the model's preprocessor_config.json"},
        "revision": "20f7a9dead5ddf469fbecedd5aaf329b5a9afba465f143b1b2fa2a6e74789b5a",
        "scaling_factor": None,
        "schema_version": 1,
        "sha256": "77d326e103b8b3aaeca165b234eaa63d440d938735f8eeb3e312657d412f4e5d",
        "shape": [6],
        "shard_bytes": [],
        "shard_items": 256,
        "shard_sha256": [],
    }
    assert blip["preprocessing"] == {
        "captioner": {
            "max_new_tokens": 30,
            "num_beams": 3,
            "revision": "f7ca51c8847a3bce8fab6ee6f4a237facaf70561ae36954d4cf802536e6c1c86",
        },
        "state": "last hidden state after the final norm",
        "tokens": "padded or cut to 5",
    }
