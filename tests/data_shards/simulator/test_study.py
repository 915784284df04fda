"""A simulated study: every choice is determined by the seed; designs; options that are refused."""

import numpy as np
import pytest
from simulated_study import simulated_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.simulator.ceiling import measure_ceiling
from neuroimagen.data_shards.simulator.drawn_stimuli import layout_features
from neuroimagen.data_shards.simulator.study import Study, StudyConfig


def test_another_seed_is_another_study() -> None:
    study, other = simulated_study(), simulated_study(seed=1)
    assert other.scene(0) != study.scene(0)
    assert other.segment(0)[:, :400].tobytes() != study.segment(0)[:, :400].tobytes()


def test_neither_threads_nor_chunks_nor_size_change_a_segment() -> None:
    study = simulated_study()
    expected = [study.segment(index).tobytes() for index in range(study.num_segments)]
    for workers, chunk in ((1, 1), (3, 5), (2, 1000)):
        assert [eeg.tobytes() for eeg in study.segments(workers=workers, chunk=chunk)] == expected
    larger = simulated_study(images_per_class=9)
    assert larger.segment(41).tobytes() == expected[41]
    assert larger.jpeg(20) == study.jpeg(20)


@pytest.mark.parametrize("design", ["random", "block"])
def test_presentation_shows_every_image_once_to_every_subject(design: str) -> None:
    study = simulated_study(images_per_class=20, design=design)
    for subject in range(2):
        places = [study.block_and_order(stimulus * 2 + subject) for stimulus in range(60)]
        assert sorted(places) == [(block, order) for block in range(3) for order in range(20)]
        labels = {block: {study.label(s) for s, place in enumerate(places) if place[0] == block} for block in range(3)}
        assert all(len(found) == (1 if design == "block" else 3) for found in labels.values())


@pytest.mark.parametrize(("design", "is_confounded"), [("random", False), ("block", True)])
def test_drift_reveals_the_class_in_a_block_design_only(design: str, is_confounded: bool) -> None:
    """Each segment's mean after the evoked response, against the classes' means over the other segments."""
    study = simulated_study(
        images_per_class=16, design=design, drift=3.0, num_subjects=1, variability=50.0, snr_db=20.0
    )
    means = np.stack([study.model.scale * eeg[:, 460:].mean(1) for eeg in study.segments()])
    labels = np.arange(study.num_segments) % 3
    train, test = np.arange(48) < 24, np.arange(48) >= 24
    centres = np.stack([means[train & (labels == c)].mean(0) for c in range(3)])
    guess = np.linalg.norm(means[test][:, None] - centres, axis=2).argmin(1)
    accuracy = np.mean(guess == labels[test])
    assert accuracy > 0.8 if is_confounded else accuracy < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [({"images_per_class": 2}, "3 or more"), ({"image_size_px": 8}, "8 px"), ({"design": "mixed"}, "random or block")],
)
def test_impossible_studies_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StudyConfig(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_plain_linear_decoder_comes_close_to_the_ceiling() -> None:
    """2,400 training and 400 test segments: shrinkage LDA on 200 principal components ≥ 0.85 of it; layout R² ≥ 0.7."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import Ridge

    study = Study(StudyConfig(images_per_class=59))
    count, num_train = 2800, 2400
    eeg = np.empty((count, 128, 110), np.float32)
    for index, segment in zip(range(count), study.segments(), strict=False):
        eeg[index] = segment[:, 20:460].reshape(128, 110, 4).mean(2)
    stimuli = np.arange(count) // 4
    labels = stimuli % 12
    layouts = np.stack([layout_features(study.scene(int(s))) for s in stimuli])
    flat = eeg.reshape(count, -1)
    flat -= flat[:num_train].mean(0)
    values, vectors = np.linalg.eigh(flat[:num_train] @ flat[:num_train].T)
    components = flat @ (flat[:num_train].T @ (vectors[:, -200:] / np.sqrt(values[-200:])))
    train, test = components[:num_train], components[num_train:]
    decoder = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, labels[:num_train])
    ceiling = measure_ceiling(study.model)
    accuracy = decoder.score(test, labels[num_train:])
    error = layouts[num_train:] - Ridge(1e-3).fit(train, layouts[:num_train]).predict(test)
    r2 = 1 - np.mean(error**2, axis=0) / layouts[num_train:].var(0)
    print(f"LDA {accuracy:.3f} of {ceiling.accuracy:.3f}; ridge R² of the layout {r2.mean():.2f} ({r2.round(2)})")
    assert accuracy >= 0.85 * ceiling.accuracy
    assert r2.mean() >= 0.7
