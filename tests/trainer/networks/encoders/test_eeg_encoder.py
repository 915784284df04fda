"""Every encoder through the same contract."""

import pickle
from pathlib import Path

import pytest
import torch
from small_encoders import KINDS, fitting_config

from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.randomness import StepRandom, reseed_dropout
from neuroimagen.trainer.recipe.recipe import DataConfig, ModelConfig, Recipe
from neuroimagen.trainer.stages.alignment import AlignmentConfig
from neuroimagen.trainer.training.dry_run import dry_run

SHAPES = [(128, 440), (17, 100), (5, 123), (63, 250)]


def config(kind: str, **changes: object) -> EncoderConfig:
    return fitting_config(kind, **{"feature_size": 24, "spatial_filters": 8, "temporal_filters": 12, **changes})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_features_gradients_and_round_trip(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(config(kind), n_channels=shape[0], n_samples=shape[1])
    eeg = torch.randn(3, *shape)
    features = encoder(eeg)
    assert features.shape == (3, 24)
    assert features.dtype == torch.float32
    features.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())

    encoder.fit_normalisation([eeg])
    encoder.eval()
    encoder.save_pretrained(tmp_path / "export")
    again = EEGEncoder.from_pretrained(tmp_path / "export")
    assert not again.training
    assert torch.equal(again(eeg), encoder(eeg))
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(eeg), encoder(eeg))
    # A segment's features do not depend on its neighbours in the batch.
    # (Float32 sums of a smaller batch may be taken in another order; features are of order 1.)
    assert torch.allclose(encoder(eeg[1:2]), encoder(eeg)[1:2], atol=1e-5)

    with torch.device("meta"):
        meta = build_encoder(config(kind), n_channels=shape[0], n_samples=shape[1])
        assert meta(torch.empty(2, *shape)).shape == (2, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_the_sample_s_own_on_any_number_of_ranks(kind: str) -> None:
    """All that a kind drops, attention included, which torch's fused attention would draw by rank."""
    torch.manual_seed(0)
    settings = config(kind, dropout=0.3, block_dropout=0.4, subject_token=True)
    encoder = build_encoder(settings, n_channels=5, n_samples=100, subjects=[1, 3]).train()
    eeg, subject = torch.randn(6, 5, 100), torch.tensor([1, 3, 3, 1, 1, 3])

    def features(first: int, count: int) -> torch.Tensor:
        torch.manual_seed(first)  # a rank's own generator
        reseed_dropout(encoder, StepRandom(0, 4, first=first, count=count, device=torch.device("cpu")))
        return encoder(eeg[first : first + count], subject[first : first + count])

    whole = features(0, 6)
    assert torch.allclose(torch.cat([features(0, 2), features(2, 4)]), whole, atol=1e-5)
    assert not torch.allclose(whole, encoder.eval()(eeg, subject), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_dry_in_the_alignment_stage(kind: str) -> None:
    """63 × 250 segments, a batch of 1,024 over four ranks, an embedding of 1,024."""
    data = DataConfig(n_channels=63, n_samples=250, num_classes=1854, subjects=(1,))
    model = ModelConfig(path="a folder that is not here", text_shape=(77, 1024), embedding_size=1024)
    stages = {"alignment": AlignmentConfig(batch_size=1024)}
    result = dry_run(Recipe(data=data, model=model, encoder=config(kind), stages=stages), "alignment", num_ranks=4)
    assert result.batch_shapes["EEG"] == (256, 63, 250)
    (network,) = result.networks
    head = 24 * 1024 + 1024 + 1024 * 1025 + 2 * 1024
    built = build_encoder(config(kind), n_channels=63, n_samples=250)
    assert network.parameters == sum(p.numel() for p in built.parameters()) + head + 1  # and the logit scale


def test_normalisation_is_that_of_the_segments_and_part_of_the_export(tmp_path: Path) -> None:
    eeg = torch.randn(40, 4, 64)
    eeg[:, 1] += eeg[:, 0]  # neighbouring electrodes record nearly the same
    eeg = eeg * torch.tensor([1.0, 5.0, 0.1, 0.0])[:, None] + torch.tensor([0.0, 3.0, -2.0, 9.0])[:, None]
    encoder = build_encoder(config("temporal_spatial"), n_channels=4, n_samples=64)
    encoder.fit_normalisation(eeg.split(16))
    assert torch.allclose(encoder.channel_mean, eeg.mean(dim=(0, 2)), atol=1e-5)
    white = torch.cov((encoder.whitening @ (eeg - encoder.channel_mean[:, None])).transpose(0, 1).flatten(1))
    # Unit variance and no correlation, up to n / (n − 1) at 2,560 values; the flat channel stays flat.
    assert torch.allclose(white, torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])), atol=1e-3)
    encoder.save_pretrained(tmp_path)
    assert torch.equal(EEGEncoder.from_pretrained(tmp_path).whitening, encoder.whitening)

    scaled = build_encoder(config("temporal_spatial", whiten=False), n_channels=4, n_samples=64)
    scaled.fit_normalisation(eeg.split(16))
    assert torch.allclose(scaled.whitening.diagonal()[:3], 1 / eeg.std(dim=(0, 2), correction=0)[:3], rtol=1e-4)
    assert torch.equal(scaled.whitening, torch.diag(scaled.whitening.diagonal()))
    assert scaled.whitening[3, 3] == 1.0  # a flat channel is not blown up
    with pytest.raises(ValueError, match="no segments"):
        encoder.fit_normalisation([])


def test_wrong_segments_and_settings_are_refused() -> None:
    encoder = build_encoder(config("temporal_spatial"), n_channels=4, n_samples=64)
    with pytest.raises(ValueError, match=r"\(4, 65\).*\(4, 64\)"):
        encoder(torch.zeros(1, 4, 65))
    for wrong in ({"feature_size": 0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config("lstm", **wrong)
