"""The alignment stage: its loss, its batches, and the validation figures that select its weights."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_files import logged
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.kernels.backends.infonce_reference import reference_infonce
from neuroimagen.trainer.batches.stage_data import Shapes, StageData
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.alignment import AlignmentConfig, AlignmentStage, mean_of_some
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.inputs import open_inputs

CPU = torch.device("cpu")
ENCODER = {"n_channels": 3, "n_samples": 20, "encoder": dataclasses.asdict(encoder_config(feature_size=5))}


class Answer(nn.Module):
    """Gives stored embeddings and a scale, whatever the EEG."""

    def __init__(self, embedding: Tensor, scale: float) -> None:
        super().__init__()
        self.embedding, self.scale = embedding, torch.tensor(scale)

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        return {"image": self.embedding[: len(eeg)]}, self.scale


def batch(num_segments: int, stimulus: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(3)
    targets = torch.randn(10, 4, generator=generator)
    return Batch(
        eeg=torch.randn(num_segments, 3, 20, generator=generator),
        label=torch.zeros(num_segments, dtype=torch.int64),
        subject=torch.ones(num_segments, dtype=torch.int64),
        stimulus=torch.tensor(stimulus),
        rows=torch.arange(num_segments),
        images=None,
        latents={"image": targets[stimulus]},
    )


def stage(**settings: Any) -> AlignmentStage:
    return AlignmentStage(
        AlignmentConfig(**settings), encoder=ENCODER, initial_encoder=None, embedding_sizes={"image": 4}
    )


def test_the_kept_encoder_is_read_and_never_changes() -> None:
    torch.manual_seed(0)
    initial = EEGEncoder(**ENCODER | {"encoder": ENCODER["encoder"] | {"dropout": 0.5}})
    before = {name: tensor.clone() for name, tensor in initial.state_dict().items()}
    built = AlignmentStage(
        AlignmentConfig(initialise_from="contrastive", keep_initial=True),
        encoder=ENCODER,
        initial_encoder=initial,
        embedding_sizes={"image": 4},
    )
    model = built.networks["model"].train()
    assert isinstance(model, AlignmentModel)
    kept = model.kept_encoder
    assert kept is not None
    given = batch(6, [0, 1, 2, 3, 4, 5])
    with torch.no_grad():
        features = model.features(given.eeg)
        assert torch.equal(features[:, 5:], initial.eval()(given.eeg))  # without dropout, in training too
    fresh = model.encoder.state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in fresh.items() if name.startswith("trunk."))

    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    random = StepRandom(0, 0, first=0, count=6, device=CPU)
    own = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    built._loss({"model": model}, given, random)[0].backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.state_dict().items())
    assert any(not torch.equal(tensor, own[name]) for name, tensor in model.encoder.state_dict().items())

    again = AlignmentModel(**model.config)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(given.eeg)[0]["image"], model.eval()(given.eeg)[0]["image"])


def test_keeping_an_encoder_needs_one_and_a_second_that_is_trained() -> None:
    for settings in ({}, {"initialise_from": "contrastive", "finetune_encoder": False}):
        with pytest.raises(ValueError, match="it needs initialise_from, and finetune_encoder: true"):
            AlignmentConfig(keep_initial=True, **settings)


@pytest.mark.parametrize("unit_norm", ["both", "targets", "rows", "none"])
def test_the_loss_is_the_weighted_sum_of_its_terms(unit_norm: str) -> None:
    given = batch(6, [0, 1, 2, 2, 4, 5])
    embedding = torch.randn(6, 4, generator=torch.Generator().manual_seed(4))
    built = stage(targets={"image": 0.7}, mse_weight=2.0, cosine_weight=0.5, unit_norm=unit_norm)
    random = StepRandom(0, 0, first=0, count=6, device=CPU)
    loss, figures = built._loss({"model": Answer(embedding, 9.0)}, given, random)
    targets = given.latents["image"]
    rows = F.normalize(embedding) if unit_norm in ("both", "rows") else embedding
    columns = F.normalize(targets) if unit_norm in ("both", "targets") else targets
    infonce = reference_infonce(rows, columns, given.stimulus, logit_scale=9.0)
    expected = 0.7 * infonce + 2.0 * F.mse_loss(embedding, targets)
    expected = expected + 0.5 * (1 - F.cosine_similarity(embedding, targets)).mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert float(figures["image_infonce"]) == pytest.approx(float(infonce), abs=1e-5)
    assert float(figures["logit_scale"]) == 9.0


def test_repetitions_are_averaged_before_the_network() -> None:
    """Six segments of two stimuli make two rows; the network sees the mean of some of each three."""
    seen: list[Tensor] = []

    class Watching(Answer):
        def forward(self, eeg: Tensor, subject: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
            seen.append(eeg)
            assert subject is not None
            assert len(subject) == len(eeg) == 2
            return super().forward(eeg, subject)

    given = batch(6, [3, 3, 3, 8, 8, 8])
    embedding = torch.randn(2, 4, generator=torch.Generator().manual_seed(4))
    random = StepRandom(0, 0, first=0, count=6, device=CPU)
    loss, _ = stage(batch_size=2, repetitions=3)._loss({"model": Watching(embedding, 5.0)}, given, random)
    targets = given.latents["image"][[0, 3]]
    expected = reference_infonce(F.normalize(embedding), F.normalize(targets), torch.tensor([3, 8]), logit_scale=5.0)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    for made, segments in zip(seen[0], given.eeg.split(3), strict=True):
        means = [segments[:number].mean(0) for number in (1, 2, 3)]
        assert any(torch.allclose(made, mean, atol=1e-6) for mean in means)


def test_every_number_of_repetitions_is_drawn_and_ranks_agree() -> None:
    eeg = torch.arange(600, dtype=torch.float64).reshape(600, 1, 1)
    whole = mean_of_some(eeg, 3, StepRandom(1, 5, first=0, count=600, device=CPU))
    above = (whole - eeg[::3]).flatten().round(decimals=6)  # 0, ½ or 1: one, two or three segments
    values, counts = above.unique(return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts.min() > 40
    second = mean_of_some(eeg[300:], 3, StepRandom(1, 5, first=300, count=300, device=CPU))
    assert torch.equal(second, whole[100:])


def opened(recipe_path: Path, *overrides: str) -> tuple[AlignmentStage, StageData]:
    recipe = load_recipe(recipe_path, overrides)
    dataset, shapes, latents = open_inputs(recipe, "alignment")
    built = build_stage(recipe, "alignment", shapes)
    assert isinstance(built, AlignmentStage)
    data = StageData(dataset, needs=built.needs, latents=latents, subjects=recipe.data.subjects, device=CPU)
    built.check(data)
    return built, data


def test_distinct_batches_hold_a_stimulus_once(recipe_path: Path) -> None:
    built, data = opened(recipe_path, "alignment.order=distinct", "alignment.batch_size=12")
    plan, index = built.plan(data, 0), data.dataset.index
    train = set(data.rows("train").tolist())
    for step in range(plan.steps_per_epoch):
        rows = plan.batch(0, step)
        assert len(np.unique(index.stimulus[rows])) == len(rows) == 12
        assert set(rows.tolist()) <= train


def test_repetitions_come_together_and_of_one_subject(recipe_path: Path) -> None:
    built, data = opened(recipe_path, "alignment.repetitions=2", "alignment.batch_size=6")
    plan, index = built.plan(data, 0), data.dataset.index
    rows = plan.batch(0, 0).reshape(6, 2)
    for values in (index.stimulus[rows], index.subject[rows]):
        assert (values[:, 0] == values[:, 1]).all()


def test_stimuli_with_fewer_segments_than_a_batch_takes_are_counted(recipe_path: Path) -> None:
    """Every stimulus is shown once to a subject: with two repetitions the same segment is taken twice."""
    built, data = opened(recipe_path, "alignment.repetitions=2", "alignment.batch_size=8")
    warning = built.plan_warning(built.plan(data, 0), data)
    pairs = len(np.unique(data.dataset.index.stimulus[data.rows("train")])) * 2
    assert warning == (
        f"{pairs} of {pairs} stimuli, each to one subject, have fewer than the 2 segments that a batch takes of each "
        "(the fewest: 1), so some of theirs are taken twice. With alignment.repetitions=1 none is."
    )
    for order in ("shuffled", "distinct"):
        built, data = opened(recipe_path, f"alignment.order={order}", "alignment.batch_size=8")
        assert built.plan_warning(built.plan(data, 0), data) is None
    built, data = opened(recipe_path, "alignment.order=distinct", "alignment.batch_size=1000")
    with pytest.raises(UserError, match="1000 stimuli per batch were asked for"):
        built.plan(data, 0)


def test_validation_ranks_the_stimulus_among_those_of_validation(recipe_path: Path) -> None:
    """The answer is the target of one stimulus: right for its segments, ranked by similarity for the others."""
    built, data = opened(recipe_path)
    built.prepare(data)
    rows = data.rows("val")
    stimuli = data.dataset.index.stimulus[rows]
    gallery = np.unique(stimuli)
    model = built.networks["model"]
    assert isinstance(model, AlignmentModel)
    targets = model.centred("image", data.latents["image"].get(gallery))
    answer = targets[0].repeat(64, 1)
    figures = built.validate({"model": Answer(answer, 1.0)}, data).means()
    similarity = F.cosine_similarity(targets[:1], targets)
    ranks = np.array([int((similarity >= similarity[np.searchsorted(gallery, own)]).sum()) for own in stimuli])
    assert figures["top1"] == pytest.approx((stimuli == gallery[0]).mean())
    assert figures["top5"] == pytest.approx((ranks <= 5).mean())
    assert figures["mrr"] == pytest.approx((1 / ranks).mean())
    assert figures["two_way"] == pytest.approx((1 - (ranks - 1) / (len(gallery) - 1)).mean())


def test_samples_are_the_nearest_images_of_validation(recipe_path: Path) -> None:
    built, data = opened(recipe_path)
    built.prepare(data)
    gallery = np.unique(data.dataset.index.stimulus[data.rows("val")])
    model = built.networks["model"]
    assert isinstance(model, AlignmentModel)
    targets = model.centred("image", data.latents["image"].get(gallery))
    rows = data.rows("val")[:3]
    images = built.draw({"model": Answer(targets[2:5], 1.0)}, torch.zeros(3, 8, 40), torch.ones(3), rows)
    assert np.array_equal(images, data.dataset.stimuli.images(gallery[2:5], images.shape[-1]))


def test_it_trains_in_the_loop_and_its_export_tells_the_targets_apart(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path, study_folder: Path
) -> None:
    folder = train_here(
        recipe_path, "alignment", tmp_path / "run", "alignment.steps=60", "alignment.learning_rate=1e-2",
        "alignment.sample_every=30", "alignment.head_dropout=0.0",
    )  # fmt: skip
    lines = logged(folder)
    assert {"loss", "image_infonce", "logit_scale"} <= lines[0].keys()
    assert {"val_top1", "val_top5", "val_mrr", "val_two_way"} <= lines[-1].keys()
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.75 * losses[0]
    assert any((folder / "samples").iterdir())
    model = AlignmentModel.from_pretrained(folder / "export")
    dataset = Dataset.open(study_folder)
    embeddings, scale = model(torch.from_numpy(dataset.eeg(0))[None])
    assert embeddings["image"].shape == (1, model.embedding_sizes["image"])
    assert 1 <= float(scale.detach()) <= 100


def test_a_run_of_an_earlier_version_goes_on_to_the_same_weights(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path
) -> None:
    """Its checkpoints lack the lengths of image embeddings; its averages too."""
    folder = train_here(recipe_path, "alignment", tmp_path / "run", "alignment.ema_decay=0.9")
    expected = load_file(folder / "export" / "model.safetensors")
    shutil.rmtree(folder / "export")
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000020")
    (checkpoints / "latest").write_text("step-00000010")
    for path in (checkpoints / "step-00000010").rglob("*.safetensors"):
        tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("length_")}
        save_file(tensors, path, metadata={"format": "pt"})
    train_here(recipe_path, "alignment", tmp_path / "run", "alignment.ema_decay=0.9", resume=True)
    found = load_file(folder / "export" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found if not name.startswith("length_"))


def shapes(**latents: tuple[int, ...]) -> Shapes:
    return Shapes(n_channels=3, n_samples=20, num_classes=2, text_shape=(7, 9), latents=latents)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": {}}, "name at least one kind"),
        ({"targets": {"image": -1.0}}, "image is -1"),
        ({"targets": {"image": math.nan}}, "finite number, got nan"),
        ({"targets": {"image": 0.0}}, "nothing is trained"),
        ({"logit_scale": 0.5}, r"logit_scale must lie in \[1, 100\]"),
        ({"soft_targets": 1.5}, "soft_targets"),
        ({"order": "distinct", "repetitions": 2}, "distinct is for repetitions: 1"),
        ({"gradient_accumulation": 2}, "compared with the whole batch"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
    ],
    ids=str,
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignmentConfig(**settings)


def test_a_target_that_is_no_vector_is_refused_by_name(recipe_path: Path) -> None:
    with pytest.raises(UserError, match="a vae latent has the shape"):
        opened(recipe_path, "alignment.targets={vae: 1.0}")
    with pytest.raises(UserError, match=r"alignment\.head: none needs encoder\.feature_size"):
        opened(recipe_path, "alignment.head=none")
