"""The vae_latent stage: its losses, its validation figures, and training it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_files import logged
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.frozen_models.vae import VaeEncoder
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.vae_latent import VaeLatentModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.vae_latent import VaeLatentStage
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.inputs import open_inputs

CPU = torch.device("cpu")


class Answer(nn.Module):
    """Gives these latents, in the order of the segments."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents, self.start = latents, 0

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        self.start += len(eeg)
        return self.latents[self.start - len(eeg) : self.start]


def opened(recipe_path: Path, *overrides: str) -> tuple[VaeLatentStage, StageData]:
    recipe = load_recipe(recipe_path, overrides)
    dataset, shapes, latents = open_inputs(recipe, "vae_latent")
    built = build_stage(recipe, "vae_latent", shapes)
    assert isinstance(built, VaeLatentStage)
    data = StageData(dataset, needs=built.needs, latents=latents, subjects=None, device=CPU)
    built.prepare(data)
    return built, data


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_loss_is_the_difference_in_units_of_each_channel_s_spread(recipe_path: Path, loss: str) -> None:
    built, data = opened(recipe_path, f"vae_latent.loss={loss}")
    model = built.networks["model"]
    assert isinstance(model, VaeLatentModel)
    batch = next(data.batches(data.rows("train"), 6))
    true = model.scaled(batch.latents["vae"])
    off = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    answer = Answer(true + off * model.target_std)
    found, _ = built._loss({"model": answer}, batch, StepRandom(0, 0, first=0, count=6, device=CPU))
    expected = off.abs().mean() if loss == "l1" else off.square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_scaling_is_the_model_folder_s(recipe_path: Path, tiny_diffusion_folder: Path) -> None:
    """What the stage trains on is what the VAE encodes, scaled as the U-Net takes it."""
    built, _ = opened(recipe_path)
    model = built.networks["model"]
    assert isinstance(model, VaeLatentModel)
    vae = VaeEncoder(tiny_diffusion_folder, device=CPU)
    pixels = torch.rand(2, 3, vae.image_size_px, vae.image_size_px) * 2 - 1
    torch.testing.assert_close(model.scaled(vae.posterior(pixels)), vae.encode(pixels))


def test_validation_is_r2_and_the_pattern_s_correlation(recipe_path: Path) -> None:
    built, data = opened(recipe_path)
    model = built.networks["model"]
    assert isinstance(model, VaeLatentModel)
    rows = data.rows("val")
    stimuli = data.dataset.index.stimulus[rows]
    true = model.scaled(data.latents["vae"].get(stimuli))
    half = model.target_mean + 0.5 * (true - model.target_mean)
    figures = built.validate({"model": Answer(half)}, data).means()
    assert figures == pytest.approx({"r2": 0.75, "correlation": 1.0}, abs=1e-4)
    noisy = true + torch.randn(true.shape, generator=torch.Generator().manual_seed(1)) * model.target_std
    found = built.validate({"model": Answer(noisy)}, data)
    z, guess = ((latents - model.target_mean) / model.target_std for latents in (true, noisy))
    assert found.means()["r2"] == pytest.approx(1 - ((guess - z) ** 2).sum().item() / (z**2).sum().item(), abs=1e-4)
    own = F.cosine_similarity(guess.flatten(1), z.flatten(1)).numpy()
    np.testing.assert_allclose(found.values["correlation"], own, atol=1e-5)


def test_it_trains_in_the_loop_from_an_encoder_and_its_samples_are_decoded(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_here(recipe_path, "contrastive", run, "contrastive.steps=2")
    folder = train_here(
        recipe_path, "vae_latent", run, "vae_latent.initialise_from=contrastive", "vae_latent.finetune_encoder=false",
        "vae_latent.sample_every=20",
    )  # fmt: skip
    assert {"val_r2", "val_correlation"} <= logged(folder)[-1].keys()
    assert any((folder / "samples").iterdir())
    model = VaeLatentModel.from_pretrained(folder / "export")
    assert model(torch.randn(3, model.encoder.n_channels, model.encoder.n_samples)).shape == (3, 4, 8, 8)
    encoder = load_file(run / "contrastive" / "export" / "model.safetensors")
    kept = model.encoder.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in encoder.items())


def test_a_longer_training_predicts_better_than_the_mean(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path
) -> None:
    """On the training segments: the small study's latents are random, so no other can be predicted."""
    folder = train_here(
        recipe_path, "vae_latent", tmp_path / "run", "vae_latent.steps=80", "vae_latent.head_dropout=0.0",
        "vae_latent.loss=l2", "vae_latent.head=linear", "vae_latent.log_every=10",
    )  # fmt: skip
    losses = [line["loss"] for line in logged(folder) if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
