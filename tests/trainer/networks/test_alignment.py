"""The alignment network: its heads, centres and logit scale, and what an export keeps."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
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


def fitted(**changes: Any) -> AlignmentModel:
    network = model(embedding_sizes={"image": 3}, **changes).eval()
    network.fit_targets({"image": Store()}, np.array([0, 0, 1, 2]))  # type: ignore[dict-item]
    return network


@pytest.mark.parametrize("centred", [True, False])
def test_an_image_embedding_has_the_targets_mean_and_length(centred: bool) -> None:
    network = fitted(centre_targets=centred)
    eeg = torch.randn(4, 3, 20)
    found = network.image_embedding(eeg, None, "image").detach().double().numpy()
    raw = network(eeg)[0]["image"].detach().double().numpy()
    targets = TARGETS.double().numpy()
    centre = targets.mean(0) if centred else np.zeros(3)
    length = np.mean([np.linalg.norm(target - centre) for target in targets])
    expected = centre + length * raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(UserError, match="trained on image, not on dino"):
        network.image_embedding(eeg, None, "dino")


def test_an_export_without_lengths_loads_and_refuses_image_embeddings(tmp_path: Path) -> None:
    """As earlier versions wrote it; its lengths can be fitted afterwards."""
    network = fitted()
    network.save_pretrained(tmp_path)
    eeg = torch.randn(2, 3, 20)
    expected = network.image_embedding(eeg, None, "image")
    assert torch.equal(AlignmentModel.from_pretrained(tmp_path).image_embedding(eeg, None, "image"), expected)
    state = load_file(tmp_path / "model.safetensors")
    assert state.pop("length_0").shape == (1,)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    old = AlignmentModel.from_pretrained(tmp_path)
    torch.testing.assert_close(old(eeg), network(eeg), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"did not store how long .*fit_lengths"):
        old.image_embedding(eeg, None, "image")
    old.fit_lengths({"image": Store()}, np.array([0, 1, 2]))  # type: ignore[dict-item]
    assert torch.equal(old.image_embedding(eeg, None, "image"), expected)
