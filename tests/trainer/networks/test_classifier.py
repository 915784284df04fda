"""The EEG classifier is an encoder, a norm and a linear layer, and its export keeps all three."""

from pathlib import Path

import torch
from torch.nn import functional as F

from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def test_logits_are_a_linear_map_of_normalised_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = encoder_config(feature_size=12, subject_layers=True)
    encoder = build_encoder(config, n_channels=5, n_samples=60, subjects=[3, 1])
    model = ClassifierModel(encoder=encoder.config, num_classes=7).eval()
    eeg, subject = torch.randn(4, 5, 60), torch.tensor([1, 3, 3, 9])
    assert model.encoder.subject_layers is not None
    torch.nn.init.normal_(model.encoder.subject_layers.offsets, std=0.3)
    features = model.encoder(eeg, subject)
    centred = features - features.mean(1, keepdim=True)
    normal = centred / (features.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = F.linear(normal, model.head.weight, model.head.bias)
    assert torch.allclose(model(eeg, subject), expected, atol=1e-5)
    assert not torch.allclose(model(eeg, subject.flip(0)), expected, atol=1e-3)  # the subjects reach the encoder

    model.save_pretrained(tmp_path)
    assert torch.equal(ClassifierModel.from_pretrained(tmp_path)(eeg, subject), model(eeg, subject))
