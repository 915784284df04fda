"""The image tower of docs/how-to/extending.md, installed: cached, checked, found again, and known to the help."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore


def test_its_embeddings_are_cached_and_found(
    outside_package: Callable[[str], Any],
    make_tiny_dataset: Callable[..., Path],
    tiny_diffusion_folder: Path,
    tmp_path: Path,
) -> None:
    package = outside_package("An image tower")
    data = make_tiny_dataset(tmp_path / "data")
    words = ["cache", "--data", data, "--model", tiny_diffusion_folder, "--kinds", "grid", "image"]
    said = package.run(*words, "--check").stdout
    assert "grid             made  12 × 48" in said
    assert "image            made  12 × 20" in said
    assert said.count("checked: recomputed latents differ") == 2

    dataset = Dataset.open(data)
    (folder,) = (data / "latents").glob("grid-*")
    store = LatentStore.open(folder)
    assert store.metadata.preprocessing == {"num_fields": 4, "size_px": 64, "resampling": "bicubic"}
    images = np.stack([np.asarray(dataset.stimuli.image(row).resize((64, 64))) for row in range(12)]) / 255
    fields = images.reshape(12, 4, 16, 4, 16, 3).mean(axis=(2, 4))  # [n, field row, field column, colour]
    expected = fields.transpose(0, 3, 1, 2).reshape(12, 48)
    assert np.abs(store.get(range(12)).numpy() - expected).max() < 2**-11  # the rounding to float16

    # Under another name, with a view, which every tower has; and without a setting that it does not have.
    tower = f"colours={tiny_diffusion_folder}:tower=grid"
    said = package.run("cache", "--data", data, "--towers", f"{tower},view=fovea", "--check").stdout
    assert "colours          made  12 × 48" in said
    (colours,) = (data / "latents").glob("colours-*")
    assert not np.allclose(LatentStore.open(colours).get(range(12)), expected, atol=1e-3)
    failed = package.run("cache", "--data", data, "--towers", f"{tower},layer=0.5", check=False)
    assert failed.returncode == 2
    assert "the image tower grid has no layer; it has view alone" in failed.stderr

    # The package's own settings are part of the identity: embeddings of others are not served in place of these.
    find = (
        "import sys; from neuroimagen.data_shards.dataset.dataset import Dataset\n"
        "print(Dataset.open(sys.argv[1]).latents('grid', model=sys.argv[2]).folder.name)"
    )
    code = f"import sys; sys.argv[1:] = {json.dumps([str(data), str(tiny_diffusion_folder)])}\n{find}"
    assert package.python(code).stdout.strip() == folder.name
    tower = package.site / "lab_tools" / "tower.py"
    tower.write_text(tower.read_text().replace("num_fields = 4", "num_fields = 8"))
    shutil.rmtree(tower.parent / "__pycache__", ignore_errors=True)
    failed = package.python(code, check=False)
    assert failed.returncode
    assert "no grid latents" in failed.stderr

    with pytest.raises(UserError, match="latent kind 'grid' is not one of vae"):  # without the package
        dataset.latents("grid", model=str(tiny_diffusion_folder))


def test_the_command_line_and_the_default_know_it(
    outside_package: Callable[[str], Any], tiny_dataset_folder: Path, tiny_diffusion_folder: Path
) -> None:
    package = outside_package("An image tower")
    assert "vae-vector, grid" in " ".join(package.run("cache", "--help").stdout.split())
    words = ("cache", "--data", tiny_dataset_folder, "--model", tiny_diffusion_folder, "--kinds", "gird")
    failed = package.run(*words, check=False)
    assert failed.returncode == 2
    assert "grid" in failed.stderr
    code = f"""
from pathlib import Path
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.latent_cache.cache import applicable_kinds
folders = ModelFolders(model=Path({str(tiny_diffusion_folder)!r}))
print(applicable_kinds(Dataset.open({str(tiny_dataset_folder)!r}), folders)[0][-2:])
"""
    assert package.python(code).stdout.strip() == "['image', 'grid']"
