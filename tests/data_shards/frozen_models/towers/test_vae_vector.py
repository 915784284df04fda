"""A VAE's latent as a flat vector, against diffusers and the kind `vae`."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
from neuroimagen.data_shards.frozen_models.loading import LoadedModels
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.vae_vector import VaeVectorTower

CPU = torch.device("cpu")


def test_it_is_the_mean_of_the_posterior(tiny_diffusion_folder: Path, noise_images: list[Image.Image]) -> None:
    from diffusers import AutoencoderKL

    folder = tiny_diffusion_folder / "vae"
    vae = AutoencoderKL.from_pretrained(folder).eval()
    for size_px in (32, 64):
        tower = VaeVectorTower().configured(TowerConfig(size_px=size_px), name="vae-vector")
        encoder = tower.load(folder, device=CPU)
        pixels = encoder.pixels(noise_images)
        squares = []
        for image in noise_images:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.resize((size_px, size_px), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
            squares.append(np.asarray(square).transpose(2, 0, 1) / 127.5 - 1)
        with torch.no_grad():
            mean = vae.encode(torch.tensor(np.stack(squares), dtype=torch.float32)).latent_dist.mean
        assert mean.shape == (3, 4, size_px // 4, size_px // 4)
        torch.testing.assert_close(encoder.encode(pixels), mean.flatten(1), rtol=1e-5, atol=1e-5)
        assert tower.identity(folder).shape == (4 * (size_px // 4) ** 2,)


def test_at_the_model_s_own_size_it_holds_the_numbers_of_vae(
    tiny_diffusion_folder: Path, noise_images: list[Image.Image]
) -> None:
    models = LoadedModels(ModelFolders(model=tiny_diffusion_folder), device=CPU)
    whole, vector = (latent_kind(name).encoder(models) for name in ("vae", "vae-vector"))  # type: ignore[attr-defined]
    expected = whole.encode(whole.pixels(noise_images))[:, 0].flatten(1)
    torch.testing.assert_close(vector.encode(vector.pixels(noise_images)), expected, rtol=1e-5, atol=1e-6)


def test_what_is_missing_is_named(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    tower = VaeVectorTower()
    assert tower.missing(tiny_diffusion_folder) is None
    assert "holds no VAE of class AutoencoderKL" in str(tower.missing(tiny_diffusion_folder / "clip"))
    odd = tower.configured(TowerConfig(size_px=30), name="vae-vector")
    assert "size_px 30 is not a multiple of the 4 px" in str(odd.missing(tiny_diffusion_folder))
    bare = shutil.copytree(tiny_diffusion_folder / "vae", tmp_path / "vae")
    assert tower.shape(bare) == (256,)  # of its own configuration's sample_size
    config = json.loads((bare / "config.json").read_text())
    del config["sample_size"]
    (bare / "config.json").write_text(json.dumps(config))
    assert "says the size of images; give it (size_px=256)" in str(tower.missing(bare))
    assert not tower.by_default
