"""Subject layers: what they compute, and that every stage, the export, inference and a new subject take them along."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import KINDS, fitting_config
from small_study import N_CHANNELS, N_SAMPLES, TRANSFORMER

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import load_encoder, summarise_segments
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import ENCODERS, encoder_config
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.masked import MaskedModel
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.reconstruction.noise import SegmentSample, normal_noise
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.training.dry_run import dry_run

Train = Callable[..., Path]
ON = "encoder.subject_layers=true"


def make(kind: str = "temporal_spatial", *, subjects: tuple[int, ...] | None = (3, 1), **changes: object) -> EEGEncoder:
    """An encoder of 5 channels × 60 samples in evaluation mode, its normalisation fitted; the same weights always."""
    settings = {
        "feature_size": 12,
        "spatial_filters": 8,
        "temporal_filters": 8,
        "width": 40,
        "pool_samples": 9,
        **changes,
    }
    torch.manual_seed(0)
    encoder = build_encoder(
        fitting_config(kind, subject_layers=subjects is not None, **settings),
        n_channels=5,
        n_samples=60,
        subjects=subjects,
    )
    encoder.fit_normalisation([3.0 + torch.randn(32, 5, 60, generator=torch.Generator().manual_seed(1))])
    return encoder.eval()


def set_offsets(encoder: EEGEncoder) -> torch.Tensor:
    """Give the maps values, and return these."""
    assert encoder.subject_layers is not None
    offsets = encoder.subject_layers.offsets
    with torch.no_grad():
        offsets.copy_(0.3 * torch.randn(offsets.shape, generator=torch.Generator().manual_seed(2)))
    return offsets.detach()


def eeg_of(count: int) -> torch.Tensor:
    return 3.0 + torch.randn(count, 5, 60, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_goes_through_its_subject_s_map(kind: str, tmp_path: Path) -> None:
    """The plain encoder on segments mapped by hand, A_s (W (x − μ)), gives the same features."""
    plain, encoder = make(kind, subjects=None), make(kind)
    eeg, subject = eeg_of(4), torch.tensor([1, 3, 3, 99])
    assert torch.allclose(encoder(eeg, subject), plain(eeg), atol=1e-5)  # identity
    offsets = set_offsets(encoder)
    maps = torch.eye(5) + torch.stack([offsets[1], offsets[0], offsets[0], offsets.mean(0)])
    white = maps @ (plain.whitening @ (eeg - plain.channel_mean[:, None]))
    plain.channel_mean.zero_()
    plain.whitening.copy_(torch.eye(5))
    features = encoder(eeg, subject)
    assert torch.allclose(features, plain(white), atol=1e-4)
    features.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())

    encoder.save_pretrained(tmp_path)
    again = EEGEncoder.from_pretrained(tmp_path)
    assert again.config["subjects"] == [3, 1]
    assert torch.equal(again(eeg, subject), encoder(eeg, subject))
    with pytest.raises(ValueError, match="give the segments' subjects"):
        encoder(eeg)
    strict = make(kind, unknown_subject="error")
    assert torch.equal(strict(eeg[:3], subject[:3]), make(kind)(eeg[:3], subject[:3]))
    with pytest.raises(UserError, match=r"subject 99 has no subject layer; .* \[3, 1\]"):
        strict(eeg, subject)
    with torch.device("meta"):
        assert make_on_meta(kind)(torch.empty(2, 5, 60), torch.empty(2, dtype=torch.int64)).shape == (2, 12)


def make_on_meta(kind: str) -> EEGEncoder:
    settings = {"feature_size": 12, "pool_samples": 9, "subject_layers": True, "unknown_subject": "error"}
    config = fitting_config(kind, **settings)
    return build_encoder(config, n_channels=5, n_samples=60, subjects=[1, 2])


def test_without_them_an_export_says_nothing_of_them(tmp_path: Path) -> None:
    plain = make(subjects=None)
    plain.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings.keys() == {"model_type", "n_channels", "n_samples", "encoder"}
    names = {field.name for field in dataclasses.fields(ENCODERS["temporal_spatial"].Config)}
    unset = {"kernel_ms", "stride_ms"}  # lengths in ms, which are not given
    assert settings["encoder"].keys() == names - {"subject_layers", "unknown_subject"} - unset
    assert not [name for name in plain.state_dict() if "subject" in name]
    assert torch.equal(plain(eeg_of(2), torch.tensor([1, 2])), plain(eeg_of(2)))  # callers may always give it
    with pytest.raises(ValueError, match="needs to know the subjects"):
        build_encoder(encoder_config(subject_layers=True), n_channels=5, n_samples=60)
    with pytest.raises(ValueError, match="distinct subjects"):
        make(subjects=(1, 1))


@pytest.mark.parametrize("subjects", [None, (3, 1)])
def test_a_new_subject_begins_at_the_mean(subjects: tuple[int, ...] | None) -> None:
    encoder = make(subjects=subjects)
    if subjects:
        set_offsets(encoder)
    eeg, subject = eeg_of(3), torch.tensor([1, 7, 3])
    wider = encoder.for_subjects([7, 1])
    assert wider.config["subjects"] == ([3, 1, 7] if subjects else [7, 1])
    assert wider.config["encoder"]["unknown_subject"] == "mean"
    assert torch.allclose(wider(eeg, subject), encoder(eeg, subject), atol=1e-5)
    assert not wider.training
    assert wider.for_subjects([1]) is wider


def test_what_the_masked_stage_draws_is_not_mapped() -> None:
    """Maps of zero would make a mapped target free; the error must stay that of the recorded signal."""
    torch.manual_seed(0)
    config = make("transformer", heads=2, depth=1, token_samples=6).config
    model = MaskedModel(encoder=config, decoder_width=32, decoder_depth=1).eval()
    eeg, order, subject = eeg_of(3), torch.stack([torch.randperm(10) for _ in range(3)]), torch.tensor([1, 3, 1])
    assert model.encoder.subject_layers is not None
    with torch.no_grad():
        whole = model(eeg, order, 4, subject)
        model.encoder.subject_layers.offsets.copy_(-torch.eye(5).expand(2, 5, 5))
        silent = model(eeg, order, 4, subject)
    assert not torch.equal(silent, whole)  # the inputs are mapped
    assert (silent > 0.5 * whole).all()


@pytest.fixture(scope="module")
def run(train_here: Train, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage that takes an encoder, one from the other, with subject layers."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train_here(recipe_path, "contrastive", run, ON, "contrastive.ema_decay=null")
    train_here(recipe_path, "saliency", run, ON)
    for name in ("semantic", "semantic_detailed"):
        train_here(recipe_path, name, run, ON, f"{name}.steps=4", f"{name}.finetune_encoder=subject_layers")
    train_here(recipe_path, "diffusion", run, ON, "diffusion.steps=2", "diffusion.zero_stage=3")
    train_here(recipe_path, "classifier", run, ON, "classifier.steps=4", "classifier.zero_stage=2")
    return run


def test_every_stage_trains_and_exports_them(run: Path, study_folder: Path) -> None:
    exports: dict[str, type[PretrainedModule]] = {
        "contrastive": EEGEncoder,
        "saliency": SaliencyModel,
        "semantic": SemanticModel,
        "semantic_detailed": SemanticModel,
        "diffusion": EEGDiffusion,
        "classifier": ClassifierModel,
    }
    encoders = {}
    for name, kind in exports.items():
        model = kind.from_pretrained(run / name / "export")
        if isinstance(model, EEGDiffusion):
            model = model.semantic
        encoder = model if isinstance(model, EEGEncoder) else model.get_submodule("encoder")
        assert isinstance(encoder, EEGEncoder)
        assert encoder.config["subjects"] == [1, 2], name
        assert encoder.subject_layers is not None
        assert encoder.subject_layers.offsets.abs().max() > 1e-5, name
        encoders[name] = encoder
    # `finetune_encoder: subject_layers` moved the maps and nothing else of the encoder.
    before, after = encoders["contrastive"], encoders["semantic"]
    assert before.subject_layers is not None
    assert after.subject_layers is not None
    assert not torch.equal(before.subject_layers.offsets, after.subject_layers.offsets)
    for (name, weight), (_, other) in zip(before.trunk.named_parameters(), after.trunk.named_parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_inference_hands_the_subjects_on(run: Path, study_folder: Path, tiny_diffusion_folder: Path) -> None:
    dataset = Dataset.open(study_folder)
    encoder = load_encoder(run)
    assert encoder is not None
    summaries = summarise_segments(dataset, encoder=encoder)
    rows = summaries.rows
    eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in rows]))
    subject = torch.from_numpy(dataset.index.subject[rows].astype(np.int64))
    with torch.inference_mode():
        expected = encoder(eeg, subject).numpy()
        assert not np.allclose(encoder(eeg, 3 - subject).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(summaries.embeddings, expected, atol=1e-5)

    reconstructor = Reconstructor(
        run, dataset, tiny_diffusion_folder, ReconstructConfig(steps=2, guidance=1.0, strength=0.5)
    )
    items = [SegmentSample(row=int(row)) for row in dataset.rows("test")[:4]]
    chosen = [item.row for item in items]
    subjects = torch.from_numpy(dataset.index.subject[chosen].astype(np.int64))
    assert subjects.tolist() == [1, 2, 1, 2]
    signals = torch.from_numpy(np.stack([dataset.eeg(row) for row in chosen]))
    z = normal_noise(0, "saliency", items, (8,))
    with torch.inference_mode():
        maps = SaliencyModel.from_pretrained(run / "saliency" / "export")(signals, z, subjects)
        assert torch.allclose(reconstructor.saliency_maps(items), maps, atol=1e-5)
    for row in ("full", "fine_tuned"):
        assert reconstructor.draw(row, items).shape == (4, 3, 32, 32)


def test_a_model_is_adapted_to_a_new_subject(train_here: Train, recipe_path: Path, tmp_path: Path) -> None:
    """Trained on subject 1, adapted to subject 2 by a map of its own: nothing of the trunk or of subject 1 moves."""
    begun = train_here(recipe_path, "contrastive", tmp_path / "one", ON, "data.subjects=[1]", "contrastive.steps=4")
    adapted = train_here(
        recipe_path,
        "classifier",
        tmp_path / "two",
        "data.subjects=[2]",
        f"classifier.initialise_from={begun}",
        "classifier.finetune_encoder=subject_layers",
        "classifier.weight_decay=0",
        "classifier.steps=4",
    )
    before = EEGEncoder.from_pretrained(begun / "export")
    after = ClassifierModel.from_pretrained(adapted / "export").encoder
    assert (before.config["subjects"], after.config["subjects"]) == ([1], [1, 2])
    assert before.subject_layers is not None
    assert after.subject_layers is not None
    old, (kept, new) = before.subject_layers.offsets, after.subject_layers.offsets
    assert torch.equal(kept, old[0])
    assert not torch.equal(new, old[0])
    assert all(torch.equal(a, b) for a, b in zip(before.trunk.parameters(), after.trunk.parameters(), strict=True))
    with pytest.raises(UserError, match=r"encoder\.subject_layers=true"):
        train_here(recipe_path, "classifier", tmp_path / "none", "classifier.finetune_encoder=subject_layers")


def test_they_come_on_top_of_masked_pre_training(train_here: Train, recipe_path: Path, tmp_path: Path) -> None:
    """Pre-trained without, and with, at ZeRO 3; what starts from it has them."""
    run = tmp_path / "run"
    masked = train_here(recipe_path, "masked", run, *TRANSFORMER, "masked.steps=2")
    assert EEGEncoder.from_pretrained(masked / "export").subject_layers is None
    begun = train_here(
        recipe_path,
        "contrastive",
        tmp_path / "begun",
        *TRANSFORMER,
        ON,
        f"contrastive.initialise_from={masked}",
        "contrastive.steps=1",
    )
    assert EEGEncoder.from_pretrained(begun / "export").config["subjects"] == [1, 2]
    with_layers = train_here(recipe_path, "masked", tmp_path / "on", *TRANSFORMER, ON, "masked.zero_stage=3")
    layers = EEGEncoder.from_pretrained(with_layers / "export").subject_layers
    assert layers is not None
    assert layers.offsets.abs().max() > 1e-4


def test_a_dry_run_counts_them(recipe_path: Path, tmp_path: Path) -> None:
    plain = dry_run(load_recipe(recipe_path), "contrastive", num_ranks=1)
    layers = dry_run(load_recipe(recipe_path, [ON]), "contrastive", num_ranks=1)
    added = layers.networks[0].parameters - plain.networks[0].parameters
    assert added == 2 * N_CHANNELS**2  # the data set is there and says whom it is of
    sizes = [f"data.n_channels={N_CHANNELS}", f"data.n_samples={N_SAMPLES}", "data.num_classes=4"]
    absent = load_recipe(recipe_path, [ON, *sizes, f"data.path={tmp_path}"])
    with pytest.raises(UserError, match=r"needs data\.subjects in the recipe"):
        dry_run(absent, "contrastive", num_ranks=1)
    said = load_recipe(recipe_path, [ON, *sizes, f"data.path={tmp_path}", "data.subjects=[4, 5, 6]"])
    counted = dry_run(said, "contrastive", num_ranks=1).networks[0].parameters
    assert counted - plain.networks[0].parameters == 3 * N_CHANNELS**2
