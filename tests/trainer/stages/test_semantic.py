"""The semantic stage's two losses, against closed forms, and what it learns of SDXL."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import RECIPE, write_study
from stage_files import logged
from torch import Tensor, nn

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.semantic import SemanticConfig, SemanticStage
from neuroimagen.trainer.training.inputs import open_inputs

CAPTIONS = torch.tensor([[[5.0, -1.0], [5.0, 4.0]], [[5.0, 1.0], [5.0, 0.0]]])  # [2, L, D]; half of it never varies

POOLED = torch.tensor([[1.0, 2.0, 6.0], [4.0, 2.0, 0.0]])  # [2, P]; one of three never varies


class Answer(nn.Module):
    """Predicts one hidden state, and one pooled state if there is one, whatever the EEG."""

    def __init__(self, state: Tensor, pooled: Tensor | None) -> None:
        super().__init__()
        self.state, self.pooled = state, pooled

    def forward(self, eeg: Tensor, subject: Tensor | None = None, *, with_pooled: bool) -> tuple[Tensor, Tensor | None]:
        pooled = None if self.pooled is None else self.pooled.expand(len(eeg), -1)
        return self.state.expand(len(eeg), -1, -1), pooled


class Store:
    """States by stimulus."""

    def __init__(self, states: Tensor) -> None:
        self.states = states

    def get(self, stimuli: np.ndarray) -> Tensor:
        return self.states[torch.from_numpy(stimuli)]


def loss_of(answer: Tensor, loss: str, *, pooled: Tensor | None = None, weight: float = 1.0) -> float:
    """Mean loss over EEG that was recorded with the first caption twice and with the second once."""
    network = {"n_channels": 3, "n_samples": 16, "encoder": dataclasses.asdict(encoder_config(feature_size=4))}
    stage = SemanticStage(
        SemanticConfig(loss=loss, pooled_weight=weight),
        encoder=network,
        initial_encoder=None,
        text_shape=(2, 2),
        pooled_size=None if pooled is None else 3,
    )
    assert ("pooled-class" in stage.needs.latents) == (pooled is not None)
    model = stage.networks["model"]
    assert isinstance(model, SemanticModel)
    model.fit_targets(
        Store(CAPTIONS),  # type: ignore[arg-type]
        np.array([0, 0, 1]),
        pooled=None if pooled is None else Store(POOLED),  # type: ignore[arg-type]
    )
    batch = Batch(
        eeg=torch.zeros(3, 3, 16),
        label=torch.tensor([0, 0, 1]),
        subject=torch.ones(3, dtype=torch.long),
        stimulus=torch.tensor([0, 0, 1]),
        rows=torch.arange(3),
        images=None,
        latents={"text-class": CAPTIONS[[0, 0, 1]], "pooled-class": POOLED[[0, 0, 1]]},
    )
    random = StepRandom(0, 0, first=0, count=3, device=torch.device("cpu"))
    return float(stage._loss({"model": Answer(answer, pooled)}, batch, random)[0])


def test_squared_l2_is_one_at_the_mean_and_lowest_there() -> None:
    mean = CAPTIONS[[0, 0, 1]].mean(0)
    assert loss_of(mean, "squared_l2") == pytest.approx(1.0, rel=1e-5)
    assert loss_of(mean, "squared_l2") < loss_of(CAPTIONS[0], "squared_l2") < loss_of(CAPTIONS[1], "squared_l2")


def test_l2_is_lowest_at_the_likelier_caption() -> None:
    mean = CAPTIONS[[0, 0, 1]].mean(0)
    apart = loss_of(CAPTIONS[0], "l2")
    # One in three is off, by the captions' distance: standardised, 1.5 / sqrt(0.5) standard deviations of each entry.
    assert apart == pytest.approx((2 * 1e-3 + 1.5 / 0.5**0.5) / 3, rel=1e-3)
    assert apart < loss_of(0.5 * (mean + CAPTIONS[0]), "l2") < loss_of(mean, "l2") < loss_of(CAPTIONS[1], "l2")


def test_the_pooled_state_has_a_loss_of_its_own_weight() -> None:
    """SDXL: in standardised units, as the hidden states', so that predicting the mean costs 1 as well."""
    mean, pooled_mean = CAPTIONS[[0, 0, 1]].mean(0), POOLED[[0, 0, 1]].mean(0)
    assert loss_of(mean, "squared_l2", pooled=pooled_mean, weight=0.5) == pytest.approx(1.5, rel=1e-5)
    assert loss_of(mean, "squared_l2", pooled=pooled_mean, weight=2.0) == pytest.approx(3.0, rel=1e-5)
    # One of three is off by both captions' distance: 1.5 / sqrt(0.5) standard deviations of each entry, squared 4.5.
    assert loss_of(mean, "squared_l2", pooled=POOLED[0], weight=1.0) == pytest.approx(1 + 4.5 / 3, rel=1e-5)
    apart = loss_of(CAPTIONS[0], "l2", pooled=POOLED[0], weight=0.5)
    assert apart == pytest.approx(1.5 * (2 * 1e-3 + 1.5 / 0.5**0.5) / 3, rel=1e-3)


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="pooled_weight must be positive, got 0"):
        SemanticConfig(pooled_weight=0.0)
    assert SemanticConfig(target="text-blip").pooled_target == "pooled-blip"


@pytest.fixture(scope="module")
def sdxl_recipe(recipe_path: Path, tiny_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for the small study with a tiny SDXL, whose text states are cached."""
    folder = tmp_path_factory.mktemp("sdxl")
    dataset = Dataset.open(write_study(folder / "data"))
    cache = LatentCache(dataset, tiny_sdxl_folder, dtype="float32")
    for kind in ("text-class", "pooled-class"):
        cache.cache(kind)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "data", model=tiny_sdxl_folder), encoding="utf-8")
    return path


def test_of_sdxl_it_learns_hidden_and_pooled_states(
    train_here: Callable[..., Path], sdxl_recipe: Path, tmp_path: Path
) -> None:
    options = ("semantic.initialise_from=null", "semantic.steps=60", "semantic.validate_every=20")
    stage = train_here(sdxl_recipe, "semantic", tmp_path / "run", *options)
    validated = [line for line in logged(stage) if "val_pooled_loss" in line]
    assert validated[-1]["val_pooled_loss"] < 0.8  # 1 for predicting the mean
    weighed = validated[-1]["val_loss"] - validated[-1]["val_pooled_loss"]
    assert 0 < weighed < 0.8
    model = SemanticModel.from_pretrained(stage / "export")
    dataset = Dataset.open(sdxl_recipe.parent / "data")
    rows = dataset.rows("val")
    eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in rows]))
    hidden, pooled = model.condition(eeg)
    assert pooled is not None
    assert (hidden.shape[1:], pooled.shape[1:]) == ((24, 40), (12,))
    # The pooled state is nearest to that of the segment's own class.
    recipe = load_recipe(sdxl_recipe, options)
    _, _, latents = open_inputs(recipe, "semantic")
    captions = latents["pooled-class"].get([int(np.argmax(dataset.stimuli.labels == label)) for label in range(4)])
    distances = torch.stack([model.pooled_distance(pooled, caption) for caption in captions], dim=1)
    assert (distances.argmin(1).numpy() == dataset.index.label[rows]).mean() > 0.6
