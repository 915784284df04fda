"""A result is written whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.retrieval.embeddings_table import METADATA_KEY
from neuroimagen.trainer.prediction.result import PipelineResult, as_images


def _result(num_images: int = 2) -> PipelineResult:
    pixels = np.random.default_rng(0).integers(0, 256, (2 * num_images, 3, 4, 4), dtype=np.uint8)
    return PipelineResult(
        condition="full",
        images=as_images(pixels),
        saliency_maps=as_images(pixels[:, :, :2, :2]),
        image_embeddings={"image": np.arange(6, dtype=np.float32).reshape(2, 3)},
        centres={"image": np.array([1.0, 2.0, 3.0], dtype=np.float32)},
        source=Path("runs/first"),
        segments=np.array([7, 3]),
        subjects=np.array([1, -1]),
        num_images=num_images,
        settings={"seed": 5},
        notes=("something",),
    )


def test_files_and_manifest(tmp_path: Path) -> None:
    result = _result()
    result.save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["condition"], manifest["seed"], manifest["notes"]) == ("full", 5, ["something"])
    assert [(item["segment"], item["subject"], item["sample"]) for item in manifest["items"]] == [
        (7, 1, 0),
        (7, 1, 1),
        (3, -1, 0),
        (3, -1, 1),
    ]
    for item, image, saliency in zip(manifest["items"], result.images, result.saliency_maps or (), strict=True):
        assert Image.open(tmp_path / "out" / item["file"]).tobytes() == image.tobytes()
        assert Image.open(tmp_path / "out" / item["saliency_map"]).tobytes() == saliency.tobytes()
    table = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    assert table.column("segment").to_pylist() == [7, 3]
    assert table.column("embedding_image").to_pylist() == [[0, 1, 2], [3, 4, 5]]
    about = json.loads(table.schema.metadata[METADATA_KEY])
    assert (about["run"], about["centres"]) == ("first", {"image": [1.0, 2.0, 3.0]})
    with pytest.raises(UserError, match="exists and is not empty"):
        result.save(tmp_path / "out")


def test_pixels_keep_their_places() -> None:
    pixels = np.zeros((1, 3, 2, 2), dtype=np.uint8)
    pixels[0, 1, 0, 1] = 200
    assert as_images(pixels)[0].getpixel((1, 0)) == (0, 200, 0)
