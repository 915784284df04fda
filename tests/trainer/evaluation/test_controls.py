"""Controls on studies of known contents, and the verdict that follows from them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import simulated_run
import torch
from scipy import stats

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation import controls, eeg_conditions
from neuroimagen.trainer.evaluation.drift_verdict import drift_share
from neuroimagen.trainer.evaluation.results import Result, find
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def results_of(folder: Path, **study: object) -> list[Result]:
    simulated_run.write_dataset(folder / "data", num_images=18, **study)
    dataset = Dataset.open(folder / "data")
    summaries = eeg_conditions.summarise_segments(dataset, encoder=None)
    results = eeg_conditions.eeg_results(dataset, summaries, num_resamples=300, seed=0)
    results += controls.control_results(dataset, summaries, num_resamples=300, seed=0, num_surrogates=6)
    chance = Result(condition="chance", metric="accuracy", value=1 / 6, low=None, high=None, n=1, definition="guessing")
    return [*results, chance]


@pytest.mark.parametrize(
    ("study", "heading", "carries_over"),
    [
        ({"signal": 1.0, "drift": 0.0}, "Slow drift explains little", True),
        ({"signal": 0.0, "drift": 3.0}, "This is slow drift", False),
        ({"signal": 1.0, "drift": 3.0}, "Mostly slow drift, with signal below it", True),
    ],
)
def test_the_verdict_tells_signal_from_drift(
    tmp_path: Path, study: dict[str, float], heading: str, carries_over: bool
) -> None:
    results = results_of(tmp_path, block_design=True, **study)
    linear, surrogate = (
        find(results, "linear_decoder", "accuracy"),
        find(results, "drift_surrogate_linear_decoder", "accuracy"),
    )
    assert linear is not None
    assert surrogate is not None
    assert linear.value > 0.6  # high in all three, whatever its source
    headings = [sentence["heading"] for sentence in verdict(results)]
    assert heading in headings
    assert ("It carries over to unseen subjects" in headings) == carries_over
    share = drift_share(results)
    assert share is not None
    assert share.low <= share.value <= share.high
    if study["drift"] == 0:
        assert surrogate.low is not None
        assert surrogate.low < 1 / 6 < 0.35
    if study["signal"] == 0:
        assert share.high > 0.9
        block = find(results, "block_index_only", "accuracy")
        assert block is not None
        assert block.value == 1.0


def test_onsets_alone_are_enough_for_the_drift_controls(tmp_path: Path) -> None:
    """The same study with its blocks unknown and the onsets in each subject's recording known."""
    simulated_run.write_dataset(tmp_path / "data", num_images=18, block_design=True, signal=0.0, drift=3.0)
    dataset = Dataset.open(tmp_path / "data")
    recorded = dataset.index
    place = recorded.block.astype(np.int64) * 18 + recorded.order
    unknown = np.full(len(recorded), -1, dtype=np.int32)
    dataset.index = dataclasses.replace(
        recorded,
        **{"block": unknown, "order": unknown, "onset_s": 0.5 * place, "recordings": ("one", "two")},
        recording_code=(recorded.subject - 1).astype(np.int32),
    )
    summaries = eeg_conditions.summarise_segments(dataset, encoder=None)
    results = eeg_conditions.eeg_results(dataset, summaries, num_resamples=100, seed=0)
    results += controls.control_results(dataset, summaries, num_resamples=100, seed=0, num_surrogates=4)
    time = find(results, "time_index_only", "accuracy")
    assert time is not None
    assert time.value > 0.8
    surrogate = find(results, "drift_surrogate_linear_decoder", "accuracy")
    assert surrogate is not None
    assert surrogate.value > 0.3  # drift without any response tells the class: guessing is right for 1/6
    block = find(results, "block_index_only", "accuracy")
    assert block is not None
    assert "stretches of about 50 segments" in block.definition
    assert find(results, "late_part_of_block_out", "accuracy") is not None


def test_a_random_order_of_presentation_rules_drift_out(tmp_path: Path) -> None:
    results = results_of(tmp_path, block_design=False, signal=1.0, drift=3.0)
    assert "Drift is ruled out by the design" in [sentence["heading"] for sentence in verdict(results)]
    surrogate = find(results, "drift_surrogate_linear_decoder", "accuracy")
    assert surrogate is not None
    assert surrogate.value < 0.3


def test_the_late_part_of_blocks_suffers_from_drift_and_not_from_signal(tmp_path: Path) -> None:
    for drift, signal in ((6.0, 0.0), (0.0, 1.0)):
        results = results_of(tmp_path / str(drift), block_design=True, signal=signal, drift=drift)
        early = find(results, "early_part_of_block", "accuracy")
        late = find(results, "late_part_of_block_out", "accuracy")
        assert early is not None
        assert late is not None
        assert (early.value - late.value > 0.1) == (drift > 0)


def test_the_majority_of_a_block() -> None:
    labels, blocks = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 0, 0, 1, 1, 2])
    subjects, is_test = np.zeros(6, dtype=int), np.array([0, 0, 1, 0, 1, 1], dtype=bool)
    predicted = controls.block_majority_predictions(labels, subjects, blocks, is_test)
    assert predicted is not None
    assert predicted.tolist() == [0, 1, 0]  # its block's 0; its block's 1; no training segment: the commonest
    assert controls.block_majority_predictions(labels, subjects, np.full(6, -1), is_test) is None


def test_the_prediction_interval_covers_the_next_draw() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = 0.5 + 0.05 * rng.standard_normal(9)
        estimate = controls.prediction_interval(values[:8].tolist(), n=1)
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= values[8] <= estimate.high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.001


def test_the_left_out_subject_is_unseen() -> None:
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 5))
    stimuli, subjects = np.tile(np.arange(60), 2), np.repeat([1, 2], 60)
    features = targets[stimuli] @ rng.standard_normal((5, 40)) + 0.1 * rng.standard_normal((120, 40))
    is_test = stimuli >= 45
    labels = (targets[stimuli, 0] > 0).astype(np.int64)
    swapped = labels.copy()
    swapped[subjects == 2] = 1 - labels[subjects == 2]  # subject 2 means the opposite: only its own data could tell
    predicted_labels = controls.left_out_predictions(features, swapped, subjects, is_test)
    second = subjects[is_test] == 2
    assert (predicted_labels[second] == swapped[is_test][second]).mean() < 0.3


def write_encoder_run(folder: Path, dataset: Dataset, seed: int) -> Path:
    torch.manual_seed(seed)
    encoder = build_encoder(
        encoder_config(feature_size=6, spatial_filters=4, temporal_filters=8, kernel_samples=5),
        n_channels=dataset.metadata.n_channels,
        n_samples=dataset.metadata.n_samples,
    )
    encoder.eval().save_pretrained(folder / "contrastive" / "export")
    return folder


def test_an_unseen_subject_s_centroids_come_from_the_others_through_its_own_encoder(tmp_path: Path) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=12, num_subjects=3)
    dataset = Dataset.open(tmp_path / "data")
    summaries = eeg_conditions.summarise_segments(dataset, encoder=None)
    runs = {subject: write_encoder_run(tmp_path / str(subject), dataset, subject) for subject in (1, 3)}
    results = controls.unseen_subject_results(dataset, summaries, runs, num_resamples=50, seed=0)

    index, hits = dataset.index, []
    for subject, run in runs.items():
        encoder = EEGEncoder.from_pretrained(run / "contrastive" / "export")

        def embedding(row: int, encoder: EEGEncoder = encoder) -> np.ndarray:
            return encoder(torch.from_numpy(dataset.eeg(row)[None])).detach().numpy()[0]

        others = [row for row in dataset.rows("train") if index.subject[row] != subject]
        known = np.stack([embedding(row) for row in others])
        centroids = np.stack([known[index.label[others] == label].mean(axis=0) for label in range(6)])
        for row in dataset.rows("test", [subject]):
            nearest = ((centroids - embedding(row)) ** 2).sum(axis=1).argmin()
            hits.append(nearest == index.label[row])
    found = find(results, controls.UNSEEN_SUBJECT_CONDITION, "accuracy")
    assert found is not None
    assert found.n == len(hits)  # subject 2 has no run: its segments are not counted
    assert found.value == pytest.approx(np.mean(hits))
    assert found.low is not None
    assert "trained anew without the subject" in found.definition
    assert find(results, controls.UNSEEN_SUBJECT_CONDITION, "permutation_p") is not None
    assert controls.unseen_subject_results(dataset, summaries, {}, num_resamples=50, seed=0) == []


@pytest.mark.parametrize(("low", "p", "carries_over"), [(0.3, 0.0005, True), (0.3, 0.2, False), (0.1, 0.0005, False)])
def test_the_verdict_counts_the_encoder_on_unseen_subjects(low: float, p: float, carries_over: bool) -> None:
    def figure(
        condition: str, metric: str, value: float, low: float | None = None, high: float | None = None
    ) -> Result:
        return Result(condition=condition, metric=metric, value=value, low=low, high=high, n=10, definition="")

    results = [
        figure("chance", "accuracy", 1 / 6),
        figure(controls.UNSEEN_SUBJECT_CONDITION, "accuracy", 0.4, low, 0.5),
        figure(controls.UNSEEN_SUBJECT_CONDITION, "permutation_p", p),
    ]
    (sentence,) = verdict(results)
    assert (sentence["heading"] == "It carries over to unseen subjects") == carries_over
    assert f"an encoder gives 40 % (95 % interval {100 * low:.0f} to 50 %)" in sentence["text"]
