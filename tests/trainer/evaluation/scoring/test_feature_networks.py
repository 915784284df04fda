"""Layers of feature networks, and the perceptual distance, against direct computation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.evaluation.scoring.feature_networks import (
    ClipModel,
    ImageClassifier,
    PerceptualNetwork,
    classes_in_classifier,
    pooled_layer,
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(5, 3, 64, 64)).astype(np.uint8)


@pytest.mark.parametrize("network", [ImageClassifier, ClipModel, PerceptualNetwork])
def test_a_folder_that_is_not_there_is_no_name_on_the_hub(network: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(UserError, match=r"there is no model folder openai/clip-vit.* nothing is downloaded"):
        network.from_folder(Path("openai/clip-vit-large-patch14"))  # type: ignore[attr-defined]


def test_layers_are_those_of_the_network(images: np.ndarray) -> None:
    for network in (
        ImageClassifier.from_folder(bundled_model_path() / "classifier", batch_size=2),
        ClipModel.from_folder(bundled_model_path() / "clip", batch_size=2),
    ):
        described = network.describe(images)
        (pixels,) = ImageClassifier._batches(_whole(network), images, "test")
        model = network.network if isinstance(network, ImageClassifier) else network.network.vision_model
        with torch.inference_mode():
            hidden = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        early = hidden[round(0.25 * (len(hidden) - 1))]
        np.testing.assert_allclose(described.early, pooled_layer(early).numpy(), atol=1e-4)
        assert len(described.features) == len(described.late) == 5
        again = described.take(np.array([3, 3]))
        np.testing.assert_array_equal(again.late[0], described.late[3])


def _whole(network: ImageClassifier | ClipModel) -> ImageClassifier | ClipModel:
    network.batch_size = 64
    return network


def test_clip_embeddings_are_the_models_own(images: np.ndarray) -> None:
    clip = ClipModel.from_folder(bundled_model_path() / "clip")
    (pixels,) = clip._batches(images, "test")
    with torch.inference_mode():
        expected = clip.network.get_image_features(pixel_values=pixels).pooler_output
    np.testing.assert_allclose(clip.image_embeddings(images), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("folder", ["classifier", "clip"])
def test_the_perceptual_distance_is_the_formula(folder: str, images: np.ndarray) -> None:
    distance = PerceptualNetwork.from_folder(Path(bundled_model_path() / folder), batch_size=3)
    assert distance.distances(images, images).max() < 1e-9
    other = np.roll(images, 1, axis=0)
    measured = distance.distances(images, other)
    expected = np.zeros(5)
    distance.batch_size = 64
    states = []
    with torch.inference_mode():
        for side in (images, other):
            (pixels,) = distance._batches(side, "test")
            states.append([h.numpy() for h in distance.network(pixel_values=pixels, output_hidden_states=True)[2]])
    for first, second in zip(*states, strict=True):
        channel = 1 if first.ndim == 4 else 2
        x, y = (part / np.maximum(np.linalg.norm(part, axis=channel, keepdims=True), 1e-10) for part in (first, second))
        expected += ((x - y) ** 2).sum(axis=channel).reshape(5, -1).mean(axis=1) / len(states[0])
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    nearby = np.clip(images.astype(int) + 8, 0, 255).astype(np.uint8)
    assert (distance.distances(images, nearby) < measured).all()


def test_classes_are_found_by_wnid_then_by_name() -> None:
    wnids, names = ["n03773504", "n02389026"], ["missile", "sorrel"]
    assert classes_in_classifier({0: "n02389026", 1: "n03773504", 2: "x"}, wnids, names).tolist() == [1, 0]
    labels = {0: "projectile, missile", 1: "sorrel", 2: "missile"}  # "missile" is the first word of label 2 only
    assert classes_in_classifier(labels, wnids, names).tolist() == [2, 1]
    with pytest.raises(UserError, match=r"missile \(n03773504, 0 matches\)"):
        classes_in_classifier({0: "sorrel", 1: "iron"}, wnids, names)
    with pytest.raises(UserError, match=r"missile \(no WordNet id, 0 matches\)"):
        classes_in_classifier({0: "sorrel", 1: "iron"}, ["", "n02389026"], names)
    imagenet = {index: f"label {index}" for index in range(1000)} | {5: "missile", 9: "sorrel"}
    with pytest.raises(UserError, match="order of WordNet ids"):  # sorrel's id comes first, its label here does not
        classes_in_classifier(imagenet, wnids, names)
