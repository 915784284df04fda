"""Every metric against an independent implementation (scikit-image, torchmetrics, scipy) and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from neuroimagen.trainer.evaluation import metrics

IDENTITY = torch.nn.Flatten(1)


def random_images(seed: int, num: int = 5, height: int = 23, width: int = 31) -> np.ndarray:
    """Smooth random pictures, so that SSIM is neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(num, 3, height // 4 + 2, width // 4 + 2)))
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bilinear")
    return (torch.sigmoid(2 * smooth) * 255).round().to(torch.uint8).numpy()


# ------------------------------------------------------------------------------------------------------- classification


@given(seed=st.integers(0, 1000), n_way=st.integers(2, 12), top_k=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_n_way_accuracy_is_the_hypergeometric_expectation(seed: int, n_way: int, top_k: int) -> None:
    if top_k >= n_way:
        return
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(40, 12)), rng.integers(0, 12, size=40)
    beaters = (scores > scores[np.arange(40), labels][:, None]).sum(axis=1)
    expected = scipy.stats.hypergeom(11, beaters, n_way - 1).cdf(top_k - 1)
    measured = metrics.n_way_accuracy(scores, labels, n_way=n_way, top_k=top_k, num_trials=4000, seed=seed)
    np.testing.assert_allclose(measured, expected, atol=5 * 0.5 / np.sqrt(4000))


def test_n_way_accuracy_draws_classes_like_brute_force() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(30, 20)), rng.integers(0, 20, size=30)
    hits = np.zeros(30)
    for _ in range(500):
        for item, label in enumerate(labels):
            others = rng.choice(np.delete(np.arange(20), label), size=6, replace=False)
            hits[item] += (scores[item, others] >= scores[item, label]).sum() < 2
    measured = metrics.n_way_accuracy(scores, labels, n_way=7, top_k=2, num_trials=3000)
    np.testing.assert_allclose(measured, hits / 500, atol=0.1)


def test_n_way_accuracy_over_all_classes_is_plain_accuracy() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(50, 12)), rng.integers(0, 12, size=50)
    measured = metrics.n_way_accuracy(scores, labels, n_way=12)
    np.testing.assert_array_equal(measured, scores.argmax(axis=1) == labels)


def test_n_way_accuracy_counts_ties_against_and_names_bad_settings() -> None:
    assert metrics.n_way_accuracy(np.zeros((1, 5)), np.array([2]), n_way=5).tolist() == [0.0]
    with pytest.raises(ValueError, match="n_way 50"):
        metrics.n_way_accuracy(np.zeros((1, 12)), np.array([0]), n_way=50)


def test_n_way_accuracy_of_random_scores_is_chance() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(20_000, 100)), rng.integers(0, 100, size=20_000)
    assert metrics.n_way_accuracy(scores, labels, n_way=50).mean() == pytest.approx(1 / 50, abs=0.004)


# --------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(("height", "width"), [(64, 64), (23, 31), (11, 12)])
def test_ssim_agrees_with_scikit_image_and_torchmetrics(height: int, width: int) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = random_images(0, height=height, width=width), random_images(1, height=height, width=width)
    measured = metrics.ssim(x, y, batch_size=2)
    expected = [
        structural_similarity(
            a / 255,
            b / 255,
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(measured, expected, atol=1e-5)
    other = structural_similarity_index_measure(
        torch.from_numpy(x) / 255, torch.from_numpy(y) / 255, data_range=1.0, reduction="none", return_full_image=True
    )[1]
    inside = other[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))  # it averages over reflected borders too; leave them out
    np.testing.assert_allclose(measured, inside.numpy(), atol=1e-5)


def test_ssim_closed_forms() -> None:
    x = random_images(3)
    np.testing.assert_allclose(metrics.ssim(x, x), 1.0, atol=1e-6)
    low, high = (np.full((1, 3, 16, 16), value, dtype=np.uint8) for value in (51, 204))  # 0.2 and 0.8: no structure
    expected = (2 * 0.2 * 0.8 + 0.01**2) / (0.2**2 + 0.8**2 + 0.01**2)
    np.testing.assert_allclose(metrics.ssim(low, high), expected, atol=1e-4)
    with pytest.raises(ValueError, match="at least 11 px"):
        metrics.ssim(x[:, :, :8, :8], x[:, :, :8, :8])


def test_pixel_correlation_agrees_with_scipy_and_is_zero_for_constants() -> None:
    x, y = random_images(0), random_images(1)
    expected = [scipy.stats.pearsonr(a.ravel(), b.ravel()).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(metrics.pixel_correlation(x, y), expected, atol=1e-6)
    np.testing.assert_allclose(metrics.pixel_correlation(x, 255 - x), -1, atol=1e-6)
    assert metrics.pixel_correlation(np.full_like(x, 7), y).tolist() == [0.0] * 5


# ------------------------------------------------------------------------------------------------------- identification


def test_two_way_identification_agrees_with_brute_force_and_divides_by_n_minus_one() -> None:
    rng = np.random.default_rng(0)
    features, candidates, targets = rng.normal(size=(7, 9)), rng.normal(size=(5, 9)), rng.integers(0, 5, size=7)
    expected = []
    for item, target in enumerate(targets):
        correlation = [np.corrcoef(features[item], candidate)[0, 1] for candidate in candidates]
        expected.append(sum(correlation[j] < correlation[target] for j in range(5) if j != target) / 4)
    similarity = metrics.correlation_matrix(features, candidates)
    np.testing.assert_allclose(metrics.two_way_identification(similarity, targets), expected)


def test_identification_closed_forms() -> None:
    perfect = np.eye(6)
    targets = np.arange(6)
    assert metrics.two_way_identification(perfect, targets).tolist() == [1.0] * 6
    assert metrics.two_way_identification(-perfect, targets).tolist() == [0.0] * 6
    assert metrics.two_way_identification(np.zeros((6, 6)), targets).tolist() == [0.5] * 6  # ties
    assert metrics.retrieval_accuracy(np.zeros((6, 6)), targets, top_k=5).tolist() == [0.0] * 6
    assert metrics.retrieval_accuracy(perfect, targets).tolist() == [1.0] * 6


def test_retrieval_agrees_with_sorting() -> None:
    rng = np.random.default_rng(4)
    similarity, targets = rng.normal(size=(50, 20)), rng.integers(0, 20, size=50)
    order = np.argsort(-similarity, axis=1)
    for top_k in (1, 5):
        expected = (order[:, :top_k] == targets[:, None]).any(axis=1)
        np.testing.assert_array_equal(metrics.retrieval_accuracy(similarity, targets, top_k=top_k), expected)


def test_identification_within_a_class_sees_only_that_class() -> None:
    similarity = np.array([[0.5, 0.9, 0.4], [0.5, 0.9, 0.4]])  # candidate 1, of another class, must not count
    allowed = np.array([[True, False, True], [True, False, False]])
    values = metrics.two_way_identification(similarity, np.array([0, 0]), allowed=allowed)
    assert values[0] == 1.0
    assert np.isnan(values[1])  # the only one of its class
    assert metrics.retrieval_accuracy(similarity, np.array([0, 0]), allowed=allowed)[0] == 1.0


# ----------------------------------------------------------------------------------------------------- sets of pictures


def test_inception_score_agrees_with_torchmetrics_and_closed_forms() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 8)) * 3)
    reference = InceptionScore(feature=IDENTITY, splits=1)
    reference.update(logits.float())
    mean, _ = metrics.inception_score(torch.softmax(logits, dim=1).numpy(), num_splits=1)
    assert mean == pytest.approx(float(reference.compute()[0]), rel=1e-5)
    assert metrics.inception_score(np.eye(12), num_splits=1)[0] == pytest.approx(12.0)
    assert metrics.inception_score(np.full((20, 12), 1 / 12), num_splits=4) == (pytest.approx(1.0), pytest.approx(0.0))
    with pytest.raises(ValueError, match="10 splits of 3"):
        metrics.inception_score(np.eye(3))


def test_frechet_distance_agrees_with_scipy_and_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(50, 6)) + 0.5
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)

    reference = FrechetInceptionDistance(feature=IDENTITY, input_img_size=(3, 1, 2), normalize=True)
    reference.set_dtype(torch.float64)
    reference.update(torch.from_numpy(x).view(-1, 3, 1, 2), real=True)
    reference.update(torch.from_numpy(y).view(-1, 3, 1, 2), real=False)
    assert metrics.frechet_distance(x, y) == pytest.approx(float(reference.compute()), rel=1e-5)


def test_frechet_distance_with_fewer_pictures_than_features() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(10, 40))
    assert metrics.frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)
    assert metrics.frechet_distance(x, x + 3) == pytest.approx(40 * 9)
    assert metrics.frechet_distance(x, 2 * x) == pytest.approx(
        np.cov(x, rowvar=False).trace()
        + (x.mean(0) ** 2).sum()  # same directions: (2σ − σ)², and the mean moves by itself
    )


def test_kernel_distance_agrees_with_torchmetrics_and_brute_force() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 6)) + 0.3
    value, error = metrics.kernel_distance(x, y, feature_stimuli=np.arange(30), reference_stimuli=np.arange(30))
    reference = KernelInceptionDistance(feature=IDENTITY, subsets=1, subset_size=30, normalize=True)
    reference.set_dtype(torch.float64)
    reference.update(torch.from_numpy(x).view(-1, 3, 1, 2), real=True)
    reference.update(torch.from_numpy(y).view(-1, 3, 1, 2), real=False)
    assert value == pytest.approx(float(reference.compute()[0]), rel=1e-4)

    def mmd(a: np.ndarray, b: np.ndarray) -> float:
        def kernel(p: np.ndarray, q: np.ndarray) -> float:
            return (p @ q / 6 + 1) ** 3

        within = [np.mean([kernel(p, q) for i, p in enumerate(s) for j, q in enumerate(s) if i != j]) for s in (a, b)]
        return sum(within) - 2 * np.mean([kernel(p, q) for p in a for q in b])

    assert value == pytest.approx(mmd(x, y))
    left_out = np.array([mmd(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(30)])
    assert error == pytest.approx(np.sqrt(29 / 30 * ((left_out - left_out.mean()) ** 2).sum()))


def test_kernel_distance_leaves_out_the_pictures_of_a_stimulus_together() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(4, 4))
    stimuli = np.repeat(np.arange(4), 2)
    _, error = metrics.kernel_distance(x, y, feature_stimuli=stimuli, reference_stimuli=np.arange(4))
    left_out = np.array(
        [
            metrics.kernel_distance(
                x[stimuli != s],
                np.delete(y, s, 0),
                feature_stimuli=stimuli[stimuli != s],
                reference_stimuli=np.delete(np.arange(4), s),
            )[0]
            for s in range(4)
        ]
    )
    assert error == pytest.approx(np.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum()))


def test_every_definition_reads_as_a_sentence_with_its_numbers() -> None:
    words = (
        "n_way n_others classifier trials size clip n_stimuli n_other_stimuli class_sizes splits n_images perceptual "
        "permutations candidates candidate_trials"
    )
    numbers = dict.fromkeys([*words.split(), "feature_dimension"], "7")
    for name, definition in metrics.DEFINITIONS.items():
        assert "{" not in definition.text.format(**numbers), name
        assert len(definition.title) <= 24
