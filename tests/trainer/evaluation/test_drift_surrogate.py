"""The model of drift: finds drift that is there, none that is not, and never takes a class for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation import drift_surrogate
from neuroimagen.trainer.evaluation.controls import sessions_of
from neuroimagen.trainer.evaluation.segment_features import bin_means, remove_trend, slow_features


def make_sessions(num_subjects: int = 3, num_blocks: int = 12, block_size: int = 20) -> drift_surrogate.Sessions:
    shape = (num_subjects, num_blocks, block_size)
    subjects, blocks, orders = (axis.ravel() for axis in np.indices(shape))
    return drift_surrogate.Sessions(subjects=subjects + 1, blocks=blocks, orders=orders)


def walk(sessions: drift_surrogate.Sessions, memory: float, num_features: int, rng: np.random.Generator) -> np.ndarray:
    """Drift of unit variance, autoregressive from block to block, linear in between, in 3 directions: [N, D]."""
    directions = np.linalg.qr(rng.standard_normal((num_features, 3)))[0].T * np.sqrt(num_features / 3)
    drift = np.empty((len(sessions.blocks), num_features))
    size = sessions.orders.max() + 1
    for subject in np.unique(sessions.subjects):
        own = sessions.subjects == subject
        nodes = rng.standard_normal((sessions.blocks.max() + 2, 3))
        for step in range(len(nodes) - 1):
            nodes[step + 1] = memory * nodes[step] + np.sqrt(1 - memory**2) * nodes[step + 1]
        share = ((sessions.orders[own] + 0.5) / size)[:, None]
        block = sessions.blocks[own]
        drift[own] = ((1 - share) * nodes[block] + share * nodes[block + 1]) @ directions
    return drift


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_drift_is_found_with_its_size_and_memory(memory: float) -> None:
    rng = np.random.default_rng(0)
    sessions = make_sessions(num_subjects=8, num_blocks=30)
    features = 2 * walk(sessions, memory, 12, rng) + rng.standard_normal((len(sessions.blocks), 12))
    model = drift_surrogate.fit_drift(features, sessions)
    power = (model.loadings**2).sum(axis=1)
    assert power[:3].sum() > 0.9 * power.sum()  # three directions drift
    assert model.memory == pytest.approx(memory, abs=0.2)
    drawn, _ = drift_surrogate.draw_drift_surrogate(model, sessions, rng)
    assert drawn.var(axis=0).mean() == pytest.approx(features.var(axis=0).mean(), rel=0.5)


@pytest.mark.parametrize("seed", range(5))
def test_levels_of_blocks_are_not_taken_for_drift(seed: int) -> None:
    """A class that is shown in one block shifts the whole block; nothing changes inside."""
    rng = np.random.default_rng(seed)
    sessions = make_sessions()
    responses = 5 * rng.standard_normal((12, 30))
    features = responses[sessions.blocks] + rng.standard_normal((len(sessions.blocks), 30))
    model = drift_surrogate.fit_drift(features, sessions)
    assert model.num_directions == 0
    drawn, _ = drift_surrogate.draw_drift_surrogate(model, sessions, rng)
    means = np.stack([drawn[sessions.blocks == block].mean(axis=0) for block in range(12)])
    assert means.var(axis=0).mean() < 3 / 60  # noise of a mean of 3 × 20 segments: 1/60


def test_segments_change_places_within_their_subject_only() -> None:
    sessions = make_sessions()
    model = drift_surrogate.fit_drift(np.random.default_rng(0).standard_normal((len(sessions.blocks), 6)), sessions)
    _, sources = drift_surrogate.draw_drift_surrogate(model, sessions, np.random.default_rng(1))
    assert sorted(sources) == list(range(len(sources)))
    np.testing.assert_array_equal(sessions.subjects[sources], sessions.subjects)
    assert (sources != np.arange(len(sources))).mean() > 0.9


def test_no_surrogate_without_the_order_of_recording() -> None:
    sessions = make_sessions()
    assert sessions.is_known
    assert not replace(sessions, orders=np.full_like(sessions.orders, -1)).is_known
    assert not make_sessions(block_size=2).is_known
    assert not make_sessions(num_blocks=1).is_known


def test_windows_of_a_surrogate_are_the_bin_means_of_its_segments() -> None:
    rng = np.random.default_rng(0)
    eeg = rng.standard_normal((6, 4, 40)).astype(np.float32)
    mean, slope, residual = remove_trend(eeg)
    slow = slow_features(mean, slope, residual)
    sources = rng.permutation(6)
    drawn = slow + 0.3 * rng.standard_normal(slow.shape)
    gain = np.exp(drawn[:, 8:] - slow[sources, 8:])
    line = np.linspace(-0.5, 0.5, 40)
    whole = residual[sources] * gain[:, :, None] + drawn[:, :4, None] + drawn[:, 4:8, None] * line
    windows = drift_surrogate.drift_surrogate_windows(drawn, sources, slow, bin_means(residual, 5), 40)
    np.testing.assert_allclose(windows, bin_means(whole, 5), atol=1e-5)


def test_a_surrogate_data_set_has_everything_but_the_eeg(tmp_path: Path) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=8, block_design=True, drift=2.0)
    (tmp_path / "data" / "latents").mkdir()
    dataset = Dataset.open(tmp_path / "data")
    rows = np.arange(len(dataset))
    sessions = sessions_of(dataset, rows)
    eeg = np.stack([dataset.eeg(row) for row in rows])
    slow = slow_features(*remove_trend(eeg))
    model = drift_surrogate.fit_drift(slow, sessions)
    drift_surrogate.write_drift_surrogate(dataset, rows, slow, model, sessions, tmp_path / "surrogate", seed=3)
    written = Dataset.open(tmp_path / "surrogate")
    for column in ("label", "stimulus", "subject", "block", "order", "split_code"):
        np.testing.assert_array_equal(getattr(written.index, column), getattr(dataset.index, column))
    assert written.stimuli.keys == dataset.stimuli.keys
    assert (tmp_path / "surrogate" / "latents").is_dir()
    replaced = np.stack([written.eeg(row) for row in rows])
    assert not np.isclose(replaced, eeg, atol=1e-2).all(axis=(1, 2)).any()
    features, sources = drift_surrogate.draw_drift_surrogate(model, sessions, np.random.default_rng(3))
    np.testing.assert_allclose(replaced.mean(axis=2), features[:, : eeg.shape[1]], atol=2e-2)
    correlation = np.corrcoef(
        remove_trend(replaced)[2].reshape(len(rows), -1), remove_trend(eeg)[2][sources].reshape(len(rows), -1)
    )
    assert np.diag(correlation, len(rows)).min() > 0.8  # the fast part is that of its source
