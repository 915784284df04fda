"""Conditions from the EEG alone: what each decoder sees, on made-up labels and on studies of known contents."""

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulated_run
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation import eeg_conditions
from neuroimagen.trainer.evaluation.eeg_conditions import EegPrediction, prediction_results
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.results import Result, find
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import encoder_arguments
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def test_nearest_in_time_knows_blocks_and_nothing_else() -> None:
    blocks, orders = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    subjects, is_test = np.ones(20, dtype=int), orders == 2
    by_block = eeg_conditions.nearest_in_time_predictions(blocks, subjects, blocks, orders, is_test)
    assert by_block is not None
    np.testing.assert_array_equal(by_block, blocks[is_test])
    # The block before ends two places earlier; the next segment of the own block that is trained on comes two later.
    first, trained = orders == 0, orders != 1
    by_block = eeg_conditions.nearest_in_time_predictions(
        *(v[trained] for v in (blocks, subjects, blocks, orders, first))
    )
    np.testing.assert_array_equal(by_block, np.arange(5))
    assert eeg_conditions.nearest_in_time_predictions(blocks, subjects, np.full(20, -1), orders, is_test) is None


def test_a_class_with_one_training_segment_is_decoded_without_a_warning() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [1, 10, 10])
    labels, is_test = np.concatenate([labels, [0, 1, 2]]), np.arange(24) >= 21
    features = 8 * np.eye(3)[labels] + rng.standard_normal((24, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (predicted,) = eeg_conditions.lda_predictions(features, [labels], np.ones(24, dtype=int), is_test)
    assert predicted.tolist() == [0, 1, 2]


def test_shuffling_keeps_the_test_split_and_every_subjects_labels() -> None:
    labels, subjects = np.tile(np.arange(5), 12), np.repeat([1, 2, 3], 20)
    is_test = np.arange(60) % 4 == 0
    shuffled = eeg_conditions.shuffled_within_subjects(labels, subjects, is_test, seed=0)
    np.testing.assert_array_equal(shuffled[is_test], labels[is_test])
    for subject in (1, 2, 3):
        chosen = ~is_test & (subjects == subject)
        assert sorted(shuffled[chosen]) == sorted(labels[chosen])
        assert (shuffled[chosen] != labels[chosen]).any()


@pytest.mark.parametrize(
    ("signal", "drift", "block_design", "heading"),
    [
        (1.0, 0.0, False, "Drift is ruled out by the design"),
        (1.0, 0.0, True, "Slow drift explains little"),
        (0.0, 3.0, True, "Most of this could be slow drift"),
    ],
)
def test_the_verdict_on_drift_in_studies_of_known_contents(
    tmp_path: Path, signal: float, drift: float, block_design: bool, heading: str
) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=12, signal=signal, drift=drift, block_design=block_design)
    dataset = Dataset.open(tmp_path / "data")
    results = eeg_conditions.eeg_results(
        dataset, eeg_conditions.summarise_segments(dataset, encoder=None), num_resamples=300, seed=0
    )
    linear = find(results, "linear_decoder", "accuracy")
    assert linear is not None
    assert linear.value > 0.5  # the plain figure is high in all three, whatever its source
    model = Result(**{**vars(linear), "condition": "full"})
    chance = Result(condition="chance", metric="accuracy", value=1 / 6, low=None, high=None, n=1, definition="guessing")
    assert heading in [sentence["heading"] for sentence in verdict([*results, model, chance])]
    permuted = find(results, "permuted_labels", "accuracy")
    assert permuted is not None
    assert permuted.value < 0.4
    if signal == 0.0:
        detrended = find(results, "linear_decoder_detrended", "accuracy")
        assert detrended is not None
        assert detrended.value < 0.35


def test_the_classifier_stage_is_scored_on_the_test_split(tmp_path: Path) -> None:
    simulated_run.write_dataset(tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    rows = dataset.rows("test")
    assert eeg_conditions.classifier_prediction(tmp_path / "run", dataset, rows) is None
    export = tmp_path / "run" / "classifier" / "export"
    encoder = encoder_arguments(encoder_config(), n_channels=8, n_samples=60, subjects=None)
    torch.manual_seed(0)
    model = ClassifierModel(encoder=encoder, num_classes=6).eval()
    model.save_pretrained(export)
    found = eeg_conditions.classifier_prediction(tmp_path / "run", dataset, rows)
    assert found is not None
    eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in rows]))
    with torch.no_grad():
        expected = model(eeg, torch.from_numpy(dataset.index.subject[rows].astype(np.int64))).argmax(1)
    assert found.predicted.tolist() == expected.tolist()
    (export.parent / "environment.json").write_text('[{"selection_split": "val"}]')
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    results = evaluate_run(tmp_path / "run", dataset, EvaluateConfig(num_resamples=100))  # nothing else is trained
    accuracy = find(results, "classifier_stage", "accuracy")
    assert accuracy is not None
    assert accuracy.value == pytest.approx((expected.numpy() == dataset.index.label[rows]).mean())
    shutil.rmtree(export)
    ClassifierModel(encoder=encoder, num_classes=5).save_pretrained(export)
    with pytest.raises(UserError, match="knows 5 classes, the data set has 6"):
        eeg_conditions.classifier_prediction(tmp_path / "run", dataset, rows)


def test_one_stimulus_a_class_is_measured_over_segments() -> None:
    """Resampling two stimuli gives four sets of segments, and permuting them two: no interval of 60 segments."""
    label = np.tile([0, 1], 30)
    right = np.arange(60) % 10 < 7
    dataset: Any = SimpleNamespace(
        index=SimpleNamespace(label=label, stimulus=label),
        stimuli=SimpleNamespace(labels=np.array([0, 1])),
        metadata=SimpleNamespace(num_classes=2),
    )
    summaries: Any = SimpleNamespace(rows=np.arange(60), is_test=np.ones(60, dtype=bool))
    prediction = EegPrediction(condition="x", predicted=np.where(right, label, 1 - label), text="a test")
    accuracy, p = prediction_results(dataset, summaries, [prediction], num_resamples=2000, seed=0)
    error = np.sqrt(0.7 * 0.3 / 60)
    assert accuracy.value == pytest.approx(0.7)
    assert accuracy.low == pytest.approx(0.7 - 1.96 * error, abs=0.03)
    assert accuracy.high == pytest.approx(0.7 + 1.96 * error, abs=0.03)
    assert "over segments" in accuracy.definition
    assert p.value < 0.01
