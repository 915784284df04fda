"""The prior stage: its loss, its out-of-fold conditions, the figures that select its weights; and training it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_files import logged
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.batches.folds import fold_of_stimuli
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.prior import PriorModel
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.base import CrossFit
from neuroimagen.trainer.stages.prior import NUM_FOLDS, PriorConfig, PriorStage
from neuroimagen.trainer.training import loop
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.inputs import open_inputs

CPU = torch.device("cpu")
Train = Callable[..., Path]


def opened(recipe_path: Path, *overrides: str) -> tuple[PriorStage, StageData]:
    recipe = load_recipe(recipe_path, ("prior.embeddings=naive", *overrides))
    dataset, shapes, latents = open_inputs(recipe, "prior")
    built = build_stage(recipe, "prior", shapes)
    assert isinstance(built, PriorStage)
    data = StageData(dataset, needs=built.needs, latents=latents, subjects=recipe.data.subjects, device=CPU)
    built.check(data)
    built.prepare(data)
    return built, data


class Answer(PriorModel):
    """A prior whose network predicts numbers of the noisy embedding, and notes what it was asked."""

    asked: list[tuple[Tensor, ...]]

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, dropped: Tensor) -> Tensor:
        self.asked.append((noisy, timesteps, condition, dropped))
        return 2 * noisy


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_loss_is_the_squared_error_of_the_prediction_with_conditions_dropped_per_row(
    recipe_path: Path, prediction: str
) -> None:
    built, data = opened(recipe_path, f"prior.prediction={prediction}", "prior.condition_dropout=0.4")
    batch = next(data.batches(data.rows("train"), 40))
    model = built.networks["model"]
    assert isinstance(model, PriorModel)
    answer = Answer(**model.config)
    answer.asked = []
    loss, _ = built._loss({"model": answer}, batch, StepRandom(3, 7, first=0, count=40, device=CPU))
    ((noisy, timesteps, condition, dropped),) = answer.asked
    random = StepRandom(3, 7, first=0, count=40, device=CPU)
    noise = random.normal("noise", model.embedding_size)
    mean, std = model.target_mean, model.target_std
    target = (batch.latents["image"] - mean) / std
    alpha = (1 - torch.linspace(1e-4, 2e-2, 1000)).cumprod(0)[timesteps][:, None]
    torch.testing.assert_close(noisy, alpha.sqrt() * target + (1 - alpha).sqrt() * noise)
    expected = F.mse_loss(2 * noisy, noise if prediction == "epsilon" else target)
    torch.testing.assert_close(loss, expected)
    assert 0 <= timesteps.min() < 200
    assert 800 < timesteps.max() < 1000
    assert 5 < dropped.sum() < 30  # 16 expected of 40, each by itself
    torch.testing.assert_close(
        condition, built._embeddings.alignment.image_embedding(batch.eeg, batch.subject, "image")
    )
    # Half of the batch on a second rank draws the same.
    answer.asked.clear()
    half = next(data.batches(data.rows("train")[20:40], 20))
    built._loss({"model": answer}, half, StepRandom(3, 7, first=20, count=20, device=CPU))
    assert torch.equal(answer.asked[0][3], dropped[20:])
    torch.testing.assert_close(answer.asked[0][0], noisy[20:])


def test_validation_ranks_sampled_embeddings_among_those_of_validation(recipe_path: Path) -> None:
    built, data = opened(recipe_path)
    model = built.networks["model"]
    assert isinstance(model, PriorModel)
    rows = data.rows("val")
    stimuli = data.dataset.index.stimulus[rows]
    gallery = np.unique(stimuli)
    latents = data.latents["image"].get(gallery)

    class First(PriorModel):
        def sample(self, embedding: Tensor, noise: Tensor, **_: Any) -> Tensor:
            return latents[:1].expand(len(embedding), -1)

    figures = built.validate({"model": First(**model.config)}, data).means()
    centred = latents - model.target_mean
    similarity = F.cosine_similarity(centred[:1], centred)
    ranks = np.array([int((similarity >= similarity[np.searchsorted(gallery, own)]).sum()) for own in stimuli])
    assert figures["mrr"] == pytest.approx((1 / ranks).mean())
    assert figures["top1"] == pytest.approx((stimuli == gallery[0]).mean())
    places = np.searchsorted(gallery, stimuli)
    assert figures["cosine"] == pytest.approx(similarity[torch.from_numpy(places)].mean().item(), abs=1e-5)
    eeg = torch.from_numpy(np.stack([data.dataset.eeg(row) for row in rows]))
    condition = built._embeddings.alignment.image_embedding(eeg, None, "image") - model.target_mean
    own = F.cosine_similarity(condition, centred[torch.from_numpy(places)])
    assert figures["condition_cosine"] == pytest.approx(own.mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": {"shift_samples": 2}}, "computed once, before training"),
        ({"sizes": [8]}, "two or more positive numbers"),
        ({"fold_steps": 0}, "fold_steps must be at least 1, or null"),
        ({"sampling_steps": 1001}, "at most 1000"),
        ({"guidance": -1.0}, "guidance must not be negative"),
        ({"condition_dropout": 1.0}, "condition_dropout must"),
    ],
    ids=str,
)
def test_settings_that_cannot_train_are_refused(recipe_path: Path, settings: dict[str, Any], message: str) -> None:
    words = [f"prior.{key}={value}" for key, value in settings.items()]
    with pytest.raises(UserError, match=message):
        load_recipe(recipe_path, words)


def test_the_folds_belong_to_out_of_fold_embeddings() -> None:
    assert PriorStage.cross_fit(PriorConfig(embeddings="naive")) is None
    wanted = PriorStage.cross_fit(PriorConfig(fold_steps=7))
    assert wanted == CrossFit(source="alignment", num_folds=NUM_FOLDS, steps=7)


# ---------------------------------------------------------------------------------------------------------- in the loop


@pytest.fixture(scope="module")
def aligned(train_here: Train, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the alignment stage, and without each fold as the prior stage wants it. Read only."""
    run = tmp_path_factory.mktemp("aligned") / "run"
    train_here(recipe_path, "alignment", run)
    for fold in range(NUM_FOLDS):
        without = f"data.leave_out=[{fold}, {NUM_FOLDS}]"
        train_here(recipe_path, "alignment", CrossFit.folder(run, "prior", fold), without)
    return run


@pytest.fixture
def run(aligned: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(aligned, tmp_path / "run")


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_it_trains_on_embeddings_by_networks_that_have_not_seen_the_stimulus(
    network: str, train_here: Train, recipe_path: Path, run: Path, study_folder: Path
) -> None:
    folder = train_here(recipe_path, "prior", run, f"prior.network={network}", "prior.sample_every=20")
    lines = logged(folder)
    assert {"val_mrr", "val_top1", "val_cosine", "val_condition_mrr", "val_condition_cosine"} <= lines[-1].keys()
    assert any((folder / "samples").iterdir())
    dataset = Dataset.open(study_folder)
    rows = dataset.rows("train")
    kept = load_file(folder / "embeddings" / "segments.safetensors")
    assert np.array_equal(kept["rows"].numpy(), rows)
    folds = fold_of_stimuli(dataset, NUM_FOLDS)[dataset.index.stimulus[rows]]
    assert np.array_equal(kept["fold"].numpy(), folds)
    eeg = torch.from_numpy(np.stack([dataset.eeg(row) for row in rows]))
    for fold in range(NUM_FOLDS):
        network_of = AlignmentModel.from_pretrained(CrossFit.folder(run, "prior", fold) / "alignment" / "export")
        embeddings = network_of.image_embedding(eeg, None, "image").detach()
        own = torch.from_numpy(folds == fold)
        torch.testing.assert_close(kept["embeddings"][own], embeddings[own], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(kept["embeddings"][~own], embeddings[~own], rtol=1e-2, atol=1e-2)
    model = PriorModel.from_pretrained(folder / "export")
    assert model.kind == "image"
    torch.testing.assert_close(model.condition_mean, kept["embeddings"].mean(0), rtol=1e-4, atol=1e-4)
    sampled = model.sample(kept["embeddings"][:3], torch.randn(3, model.embedding_size))
    assert sampled.shape == (3, model.embedding_size)


@pytest.mark.parametrize("embeddings", ["out_of_fold", "naive"])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_resumed_run_ends_with_the_same_bits(
    embeddings: str,
    zero_stage: int,
    train_here: Train,
    recipe_path: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = (f"prior.embeddings={embeddings}", f"prior.zero_stage={zero_stage}", "prior.ema_decay=0.9")
    whole = train_here(recipe_path, "prior", shutil.copytree(run, tmp_path / "whole"), *settings)
    real = loop.train_step

    def stop_at_fourteen(*args: Any, **kwargs: Any) -> Any:
        if args[4] == 14:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_at_fourteen)
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe_path, "prior", run, *settings)
    resumed = train_here(recipe_path, "prior", run, *settings, resume=True)
    export = "export/model.safetensors"
    assert (resumed / export).read_bytes() == (whole / export).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prior.target=vae", "prior.condition=image"), r"prior\.target: a vae latent has the shape"),
        (("prior.condition=dino",), r"trained on image, not on dino.*prior\.condition"),
    ],
    ids=["no vector", "unknown"],
)
def test_kinds_that_do_not_fit_are_refused_by_name(
    recipe_path: Path, aligned: Path, words: tuple[str, ...], message: str
) -> None:
    recipe = load_recipe(recipe_path, words)
    _, shapes, _ = open_inputs(recipe, "prior")
    initial = AlignmentModel.from_pretrained(aligned / "alignment" / "export")
    with pytest.raises(UserError, match=message):
        build_stage(recipe, "prior", shapes, initial=initial)


def test_missing_folds_are_named(train_here: Train, recipe_path: Path, run: Path) -> None:
    shutil.rmtree(CrossFit.folder(run, "prior", 1))
    with pytest.raises(UserError, match=r"folds/1/alignment/export is not there: .*prior\.embeddings=naive"):
        train_here(recipe_path, "prior", run)
