"""Decoders: the nearest-mean classifier as a layer, and figures that are those of `evaluate`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from new_subject_study import NEW
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.adaptation.decoders import CentroidClassifier, ClassDecoder, Segments, _best_scale
from neuroimagen.trainer.batches.augmentation import AugmentConfig
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom

CPU = "cpu"


def encoder() -> EEGEncoder:
    torch.manual_seed(0)
    config = encoder_config(feature_size=6, kernel_samples=5, stride_samples=2)
    return build_encoder(config, n_channels=3, n_samples=20).eval()


def decoder(num_classes: int, labels: list[int], **config: int) -> ClassDecoder:
    torch.manual_seed(1)
    network = CentroidClassifier(encoder(), torch.randn(num_classes, 6)).eval()
    return ClassDecoder(
        "contrastive",
        network,
        labels=np.array(labels),
        augment=AugmentConfig(),
        config=EvaluateConfig(**config),  # type: ignore[arg-type]
        text="nearest",
    )


def some_segments(labels: list[int]) -> Segments:
    generator = torch.Generator().manual_seed(2)
    number = len(labels)
    return Segments(
        rows=np.arange(number),
        eeg=torch.randn(number, 3, 20, generator=generator),
        label=np.array(labels),
        stimulus=np.arange(number),
    )


def test_the_layer_is_the_nearest_mean() -> None:
    centroids = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    network = CentroidClassifier(encoder(), centroids).eval()
    eeg = some_segments([0] * 9).eeg
    with torch.no_grad():
        nearest = torch.cdist(network.encoder(eeg), centroids).argmin(dim=1)
        assert torch.equal(network(eeg).argmax(dim=1), nearest)
        distance = (network.encoder(eeg)[:, None] - centroids) ** 2
        expected = -distance.sum(dim=2)
        assert torch.allclose(network(eeg).softmax(dim=1), expected.softmax(dim=1), atol=1e-4)


def test_values_are_hits_under_the_data_sets_labels() -> None:
    """The network's four classes are the labels 5, 2, 7 and 0 of the data set."""
    labels = [5, 2, 7, 0]
    found = decoder(4, labels)
    test = some_segments([0, 2, 5, 7] * 5)
    with torch.no_grad():
        predicted = np.array(labels)[found.network(test.eeg).argmax(dim=1).numpy()]
    values = found.values(found.network, test, -1, CPU)["accuracy"]
    assert np.array_equal(values, (predicted == test.label).astype(float))
    assert found.chance == {"accuracy": 0.25}
    assert "all 4 classes" in found.definitions["accuracy"]


def test_n_way_accuracy_is_among_fewer_classes() -> None:
    found = decoder(4, [0, 1, 2, 3], n_way=2, num_trials=40)
    test = some_segments([0, 1, 2, 3] * 5)
    values = found.values(found.network, test, -1, CPU)["accuracy"]
    with torch.no_grad():
        logits = found.network(test.eeg).numpy()
    true = logits[np.arange(20), test.label]
    expected = (logits < true[:, None]).sum(axis=1) / 3  # of the others, drawn one at a time
    assert np.abs(values - expected).max() < 0.3
    assert found.chance == {"accuracy": 0.5}
    assert "1 others drawn at random 40 times" in found.definitions["accuracy"]


def test_the_loss_is_the_cross_entropy_of_known_classes() -> None:
    found = decoder(3, [4, 1, 2])
    segments = some_segments([4, 1, 9, 2])
    batch = segments.batch(np.arange(4), -1, CPU)
    random = StepRandom(0, 0, first=0, count=4, device=torch.device(CPU))
    with torch.no_grad():
        logits = found.network(segments.eeg)
        expected = F.cross_entropy(logits[[0, 1, 3]], torch.tensor([0, 1, 2]))
        assert torch.allclose(found.loss(found.network, batch, random), expected)


def test_the_scale_is_the_likeliest_and_changes_no_decision() -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.distributions.Categorical(logits=3 * logits).sample()
    best = _best_scale(logits, targets)
    grid = np.geomspace(0.1, 30, 400)
    least = min(grid, key=lambda factor: float(F.cross_entropy(logits * factor, targets)))
    assert best == pytest.approx(least, rel=0.03)
    noise = torch.randint(5, (200,), generator=torch.Generator().manual_seed(1))
    assert _best_scale(logits, noise) * float(logits.std()) == pytest.approx(1, rel=0.01)  # not 0
    found = decoder(3, [0, 1, 2])
    network, segments = found.network, some_segments([0, 1, 2] * 4)
    with torch.no_grad():
        before: Tensor = network(segments.eeg)
        found.prepare(network, segments, -1, CPU)
        after: Tensor = network(segments.eeg)
    assert not torch.allclose(before, after)
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))


def test_segments_are_those_of_the_data_set(new_subject_data: Path) -> None:
    dataset = Dataset.open(new_subject_data)
    rows = np.flatnonzero(dataset.index.subject == NEW)[[5, 0, 9]]
    found = Segments.read(dataset, rows)
    assert np.array_equal(found.eeg[1].numpy(), dataset.eeg(int(rows[1])))
    assert found.label.tolist() == dataset.index.label[rows].tolist()
    batch = found.batch(np.array([2, 0]), 8, CPU)
    assert batch.rows.tolist() == rows[[2, 0]].tolist()
    assert batch.subject.tolist() == [8, 8]
    assert batch.stimulus.tolist() == dataset.index.stimulus[rows[[2, 0]]].tolist()
