"""The alignment network: its heads, centres and logit scale, and what an export keeps."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.trainer.networks.alignment import AlignmentModel, cosine_similarities
from neuroimagen.trainer.networks.encoders.registry import encoder_config

TARGETS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [5.0, 6.0, 2.0]])


class Store:
    """Targets by stimulus."""

    def get(self, stimuli: np.ndarray) -> Tensor:
        return TARGETS[torch.from_numpy(stimuli)]


def model(**changes: Any) -> AlignmentModel:
    settings: dict[str, Any] = {
        "encoder": {"n_channels": 3, "n_samples": 20, "encoder": dataclasses.asdict(encoder_config(feature_size=5))},
        "embedding_sizes": {"image": 3, "pooled-class": 4},
        "head": "residual",
        "head_dropout": 0.1,
        "centre_targets": True,
        "logit_scale": 14.0,
        "learn_logit_scale": True,
        **changes,
    }
    torch.manual_seed(0)
    return AlignmentModel(**settings)


def test_one_embedding_for_each_kind_and_the_scale() -> None:
    embeddings, scale = model()(torch.randn(6, 3, 20))
    assert {kind: tuple(values.shape) for kind, values in embeddings.items()} == {
        "image": (6, 3),
        "pooled-class": (6, 4),
    }
    assert float(scale.detach()) == pytest.approx(14.0)


@pytest.mark.parametrize(("log_scale", "scale"), [(-50.0, 1.0), (50.0, 100.0), (2.0, np.exp(2.0))])
def test_the_scale_keeps_within_its_bounds(log_scale: float, scale: float) -> None:
    network = model()
    network.log_scale.data.fill_(log_scale)
    assert float(network(torch.randn(2, 3, 20))[1].detach()) == pytest.approx(scale)
    assert not model(learn_logit_scale=False).log_scale.requires_grad


def test_the_residual_head_is_the_published_projector() -> None:
    """Linear, x + dropout(Linear(GELU(x))), LayerNorm: NICE's, ATM's and UBP's, without dropout in evaluation."""
    network = model(embedding_sizes={"image": 3}).eval()
    features = torch.randn(4, 5)
    head = network.heads[0]
    assert isinstance(head, torch.nn.Sequential)
    first, residual, norm = head
    x = first(features)
    inner = residual.layers[1]
    expected = F.layer_norm(x + inner(F.gelu(x)), (3,), norm.weight, norm.bias)
    torch.testing.assert_close(network.from_features(features)["image"], expected)


def test_without_a_head_the_features_are_the_embedding() -> None:
    network = model(head="none", embedding_sizes={"image": 5})
    features = torch.randn(4, 5)
    assert torch.equal(network.from_features(features)["image"], features)
    with pytest.raises(ValueError, match=r"head: none needs encoder\.feature_size 3"):
        model(head="none", embedding_sizes={"image": 3})


def test_centres_are_means_over_stimuli_whatever_their_repetitions() -> None:
    network = model(embedding_sizes={"image": 3})
    network.fit_targets({"image": Store()}, np.array([0, 0, 0, 1, 2]))  # type: ignore[dict-item]
    assert torch.equal(network.centre("image"), TARGETS.mean(0))
    assert torch.equal(network.centred("image", TARGETS), TARGETS - TARGETS.mean(0))
    plain = model(embedding_sizes={"image": 3}, centre_targets=False)
    plain.fit_targets({"image": Store()}, np.array([0, 1]))  # type: ignore[dict-item]
    assert torch.equal(plain.centred("image", TARGETS), TARGETS)


def test_an_export_computes_the_same(tmp_path: Path) -> None:
    network = model().eval()
    network.centre("image").copy_(TARGETS[0])
    network.log_scale.data.fill_(1.5)
    network.save_pretrained(tmp_path)
    again = AlignmentModel.from_pretrained(tmp_path)
    eeg = torch.randn(2, 3, 20)
    torch.testing.assert_close(again(eeg), network(eeg), rtol=0, atol=0)
    assert torch.equal(again.centre("image"), TARGETS[0])


def test_cosine_similarities_are_numpy_s() -> None:
    rows, targets = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    found = cosine_similarities(rows, targets).numpy()
    for i, row in enumerate(rows.numpy()):
        for j, target in enumerate(targets.numpy()):
            assert found[i, j] == pytest.approx(row @ target / np.linalg.norm(row) / np.linalg.norm(target))
