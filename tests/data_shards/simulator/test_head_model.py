"""Heads: a real montage, the potential of a dipole in a sphere, and what differs between subjects."""

import numpy as np
import pytest
from scipy.special import eval_legendre, lpmv

from neuroimagen.data_shards.simulator.head_model import (
    NOISE_SHARES,
    NUM_NOISE,
    Heads,
    draw_heads,
    montage,
    sphere_potential,
    topographies_of,
)


@pytest.fixture(scope="module")
def heads() -> Heads:
    return drawn(2)


def drawn(num_subjects: int, *, num_class_sources: int = 11, seed: int = 0) -> Heads:
    return draw_heads(
        montage()[1],
        seed=seed,
        num_subjects=num_subjects,
        num_class_sources=num_class_sources,
        most_class_sources=11,
        frequencies_hz=np.arange(1.0, 101.0),
    )


def test_montage_is_a_real_one() -> None:
    names, points = montage()
    assert (len(names), points.shape) == (128, (128, 3))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)


def test_sphere_potential_is_the_sum_of_its_legendre_series() -> None:
    """V = Σ_n (2n + 1)/n · b^(n−1) · (n m_r P_n(cos γ) + m_t P_n¹(cos γ) cos β), dipole at height b on the z axis."""
    b, radial, tangential = 0.6, 0.8, -0.5
    rng = np.random.default_rng(0)
    points = rng.standard_normal((20, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosine, azimuth = points[:, 2], np.arctan2(points[:, 1], points[:, 0])
    series = np.zeros(20)
    for n in range(1, 120):
        legendre = n * radial * eval_legendre(n, cosine) - tangential * lpmv(1, n, cosine) * np.cos(azimuth)
        series += (2 * n + 1) / n * b ** (n - 1) * legendre
    closed = sphere_potential(points, np.array([0, 0, b]), np.array([tangential, 0, radial]))
    np.testing.assert_allclose(closed, series, rtol=1e-9, atol=1e-9)


def test_topographies_have_an_average_reference() -> None:
    points = montage()[1]
    dipoles = np.array([[0.0, 0.1, 0.7, 0.0, 0.0, 1.0], [0.3, -0.4, 0.5, 1.0, 0.0, 0.0]])
    fields = topographies_of(points, dipoles)
    np.testing.assert_allclose(fields.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(fields @ [2.0, 0.0], 2 * fields[:, 0])
    nearest = np.linalg.norm(points - [0.0, 0.1, 0.7], axis=1).argmin()
    assert fields[:, 0].argmax() == nearest  # a dipole that points outwards is positive above itself


def test_powers_are_the_stated_shares(heads: Heads) -> None:
    assert heads.noise_power.shape == (2, NUM_NOISE, 100)
    total = (heads.noise_mixing**2).mean(1)[:, :, None] * heads.noise_power
    np.testing.assert_allclose(total.sum((1, 2)), 1 - NOISE_SHARES["amplifier"])
    np.testing.assert_allclose((heads.topographies**2).mean((0, 1)), 1)


def test_a_subject_does_not_depend_on_the_others_nor_a_source_on_the_number_of_classes(heads: Heads) -> None:
    three = drawn(3)
    np.testing.assert_array_equal(three.noise_mixing[:2], heads.noise_mixing)
    np.testing.assert_array_equal(three.latencies_ms[:2], heads.latencies_ms)
    few = drawn(1, num_class_sources=4)
    assert few.topographies.shape[2] == 4 + 9 + 3
    assert not np.array_equal(drawn(2, seed=1).noise_mixing, heads.noise_mixing)


def test_subjects_differ_moderately(heads: Heads) -> None:
    first, second = heads.topographies
    alike = np.sum(first * second, axis=0) / np.linalg.norm(first, axis=0) / np.linalg.norm(second, axis=0)
    assert 0.4 < alike.min() < 0.97
    assert 0.85 < alike.mean() < 0.99
    assert 0.1 < np.abs(heads.latencies_ms[0] - heads.latencies_ms[1]).mean() < 14
