"""ATM's encoder: its equations, its sizes, and the subjects' tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_encoders import atm

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder, choose_finetuned
from neuroimagen.trainer.networks.encoders.registry import encoder_config

SMALL = {"feature_size": 12, "spatial_filters": 8, "temporal_filters": 8, "feedforward_width": 20}


def make(*, subjects: tuple[int, ...] | None = (3, 1), **changes: object) -> EEGEncoder:
    """An encoder of 5 channels × 90 samples, with tokens of `subjects` that differ."""
    torch.manual_seed(0)
    config = encoder_config("atm", **{**SMALL, "subject_token": subjects is not None, **changes})
    encoder = build_encoder(config, n_channels=5, n_samples=90, subjects=subjects)
    encoder.fit_normalisation([3.0 + torch.randn(32, 5, 90)])
    if encoder.subject_tokens is not None:
        torch.nn.init.normal_(encoder.subject_tokens.offsets)
    return encoder.eval()


def tokens(encoder: EEGEncoder) -> torch.Tensor:
    assert encoder.subject_tokens is not None
    return (encoder.subject_tokens.shared + encoder.subject_tokens.offsets).detach()


def test_the_features_are_atm_s_equations_with_the_subject_s_token() -> None:
    """90 samples and four heads of 22: a width that the heads do not fill, as ATM's 250 and 62."""
    encoder = make()
    eeg, own = 3.0 + torch.randn(3, 5, 90), tokens(encoder)
    white = (encoder.whitening @ (eeg - encoder.channel_mean[:, None])).double().numpy()
    weights = {name: value.double().numpy() for name, value in encoder.trunk.state_dict().items()}
    token = torch.stack([own[1], own[0], own.mean(0)])  # subject 9 has none
    expected = torch.from_numpy(atm(white, weights, token.double().numpy())).float()
    assert torch.allclose(encoder(eeg, torch.tensor([1, 3, 9])), expected, atol=1e-5)
    assert not torch.allclose(encoder(eeg, torch.tensor([3, 3, 9])), expected, atol=1e-3)


def test_the_defaults_are_atm_s_sizes() -> None:
    config = encoder_config("atm", subject_token=True)
    encoder = build_encoder(config, n_channels=63, n_samples=250, subjects=range(1, 11))
    transformer = 250 * 251 + 3 * 248 * 251 + 250 * 249 + 256 * 251 + 250 * 257 + 3 * 500
    convolutions = 40 * 26 + 4 * 40 + 40 * (40 * 63 + 1) + 40 * 41
    projector = 1024 * 1441 + 1024 * 1025 + 2 * 1024
    assert sum(p.numel() for p in encoder.trunk.parameters()) == transformer + convolutions + projector
    assert tokens(encoder).shape == (10, 250)


def test_a_width_of_its_own_is_what_the_convolutions_read() -> None:
    encoder = make(subjects=None, width=80)
    assert encoder(torch.randn(2, 5, 90)).shape == (2, 12)
    assert encoder.trunk.head.in_features == 8 * 2  # (80 − 75) / 5 + 1 steps
    with pytest.raises(ValueError, match=r"tokens of 60 samples are shorter than the 75"):
        make(subjects=None, width=60)
    with pytest.raises(ValueError, match=r"encoder\.width 3 is less than encoder\.heads 4"):
        encoder_config("atm", width=3)


def test_a_subject_without_a_token_is_an_error_if_wanted_and_a_missing_number_always() -> None:
    strict = make(unknown_subject="error")
    with pytest.raises(UserError, match=r"subject 9 has no subject token; .* \[3, 1\]"):
        strict(torch.randn(1, 5, 90), torch.tensor([9]))
    with pytest.raises(ValueError, match="subject tokens: give the segments' subjects"):
        strict(torch.randn(1, 5, 90))
    with pytest.raises(ValueError, match="needs to know the subjects"):
        build_encoder(encoder_config("atm", subject_token=True), n_channels=5, n_samples=90)


def test_an_export_keeps_the_tokens_and_says_whose_they_are(tmp_path: Path) -> None:
    encoder = make(unknown_subject="error")
    encoder.save_pretrained(tmp_path)
    again = EEGEncoder.from_pretrained(tmp_path)
    assert again.config == encoder.config
    assert again.config["subjects"] == [3, 1]
    assert again.config["encoder"]["unknown_subject"] == "error"
    assert "subject_layers" not in again.config["encoder"]
    eeg, subject = torch.randn(2, 5, 90), torch.tensor([1, 3])
    assert torch.equal(again(eeg, subject), encoder(eeg, subject))
    plain = make(subjects=None)
    assert "subjects" not in plain.config
    assert not [name for name in plain.state_dict() if "subject" in name]


@pytest.mark.parametrize("layers", [False, True])
def test_a_new_subject_begins_at_the_mean_token(layers: bool) -> None:
    encoder = make()
    wider = encoder.for_subjects([7, 1], subject_layers=layers)
    assert wider.config["subjects"] == [3, 1, 7]
    assert (wider.subject_layers is not None) == layers
    assert torch.allclose(tokens(wider)[2], tokens(encoder).mean(0), atol=1e-6)
    eeg, subject = torch.randn(3, 5, 90), torch.tensor([1, 7, 3])
    assert torch.allclose(wider(eeg, subject), encoder(eeg, subject), atol=1e-5)
    assert encoder.for_subjects([1], subject_layers=False) is encoder
    assert make(subjects=None).for_subjects([1], subject_layers=False).subject_tokens is None


def test_the_subjects_own_parts_can_be_trained_alone() -> None:
    encoder = make()
    choose_finetuned(encoder, "subject_layers")
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {"subject_tokens.shared", "subject_tokens.offsets"}


def test_a_run_learns_tokens_and_the_next_stage_keeps_and_adds_them(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path
) -> None:
    """One subject first, then both: the second begins at the first's token, and only the subjects' own is trained."""
    small = ("encoder.kind=atm", "encoder.subject_token=true", "encoder.feature_size=12", "encoder.kernel_samples=5")
    small += ("encoder.pool_samples=9", "encoder.spatial_filters=8", "encoder.temporal_filters=8")
    first = train_here(
        recipe_path, "contrastive", tmp_path / "first", *small, "contrastive.steps=3", "data.subjects=[2]",
        "contrastive.num_samples=2",
    )  # fmt: skip
    before = EEGEncoder.from_pretrained(first / "export")
    assert before.config["subjects"] == [2]
    second = train_here(
        recipe_path, "classifier", tmp_path / "second", *small, "classifier.steps=3",
        f"classifier.initialise_from={first}", "classifier.finetune_encoder=subject_layers",
    )  # fmt: skip
    after = ClassifierModel.from_pretrained(second / "export").encoder
    assert after.config["subjects"] == [2, 1]
    assert after.subject_layers is None
    assert tokens(after).shape == (2, 40)
    assert not torch.equal(tokens(after)[0], tokens(before)[0])
    pairs = zip(before.trunk.parameters(), after.trunk.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
