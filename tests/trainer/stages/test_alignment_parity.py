"""NICE's, ATM's and UBP's encoder and loss, as their recipes set them, against their equations in NumPy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from published_encoders import atm, atm_loss, nice, nice_loss, ubp, ubp_loss

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.launch import cli
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.alignment import AlignmentStage
from neuroimagen.trainer.training.build import build_stage

RECIPES = Path(cli.__file__).parent / "recipes"
COUNT = 7
TEXT = "alignment.targets={image: 0.99, pooled-class: 0.01}"


def built(name: str, *overrides: str) -> tuple[AlignmentStage, Batch]:
    """The stage of a recipe in evaluation mode, its normalisation fitted, and a batch of pairs of distinct stimuli."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", overrides)
    data, size = recipe.data, recipe.model.embedding_size
    assert data.n_channels is not None
    assert data.n_samples is not None
    kinds = tuple(recipe.stages["alignment"].targets)
    shapes = Shapes(
        n_channels=data.n_channels,
        n_samples=data.n_samples,
        num_classes=1854,
        text_shape=(77, size),
        subjects=(1, 2),
        latents=dict.fromkeys(kinds, (size,)),
    )
    stage = build_stage(recipe, "alignment", shapes)
    assert isinstance(stage, AlignmentStage)
    generator = torch.Generator().manual_seed(1)
    eeg = 2.0 + 3.0 * torch.randn(COUNT, data.n_channels, data.n_samples, generator=generator)
    model = stage.networks["model"].eval()
    assert isinstance(model, AlignmentModel)
    model.encoder.fit_normalisation([eeg])
    # Tower outputs of length 10, near one another like those of natural images.
    common = torch.randn(size, generator=generator)
    latents = {
        kind: 10 * torch.nn.functional.normalize(common + torch.randn(COUNT, size, generator=generator))
        for kind in kinds
    }
    index = torch.arange(COUNT)
    batch = Batch(rows=index, eeg=eeg, label=index, subject=1 + index % 2, stimulus=index, images=None, latents=latents)
    return stage, batch


def check(stage: AlignmentStage, batch: Batch, expected: np.ndarray, loss: Callable[..., float]) -> None:
    """Embeddings and loss are those of the oracle, to 1e-5."""
    model = stage.networks["model"]
    embeddings, _ = model(batch.eeg, batch.subject)
    for found in embeddings.values():
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-5)
    random = StepRandom(0, 0, first=0, count=COUNT, device=torch.device("cpu"))
    targets = [values.double().numpy() for values in batch.latents.values()]
    found_loss = float(stage._loss(stage.networks, batch, random)[0].detach())
    assert found_loss == pytest.approx(loss(expected, *targets), rel=1e-5)


def whitened(stage: AlignmentStage, batch: Batch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The channels scaled as the recipe has them, in NumPy, and the trunk's weights."""
    eeg = batch.eeg.double().numpy()
    # `whiten: false`: each channel has mean 0 and variance 1 over the data.
    white = (eeg - eeg.mean((0, 2), keepdims=True)) / eeg.std((0, 2), keepdims=True)
    trunk = stage._model.encoder.trunk
    return white, {name: value.double().numpy() for name, value in trunk.state_dict().items()}


def test_nice() -> None:
    stage, batch = built("things-eeg2-nice")
    check(stage, batch, nice(*whitened(stage, batch)), nice_loss)
    assert not stage._model.log_scale.requires_grad


def test_atm_with_its_text_term() -> None:
    stage, batch = built("things-eeg2-atm", TEXT)
    own = stage._model.encoder.subject_tokens
    assert own is not None
    torch.nn.init.normal_(own.offsets)
    tokens = (own.shared + own.offsets).detach().double().numpy()[batch.subject.numpy() - 1]
    white, weights = whitened(stage, batch)
    check(stage, batch, atm(white, weights, tokens), atm_loss)
    assert stage._model.log_scale.requires_grad


def test_ubp() -> None:
    stage, batch = built("things-eeg2-ubp")
    check(stage, batch, ubp(*whitened(stage, batch)), ubp_loss)
    assert stage._model.log_scale.requires_grad
