"""Heads of the simulated subjects: electrodes of a real montage, dipoles in the cortex, potentials at the scalp.

The evoked sources of a subject are those of a group, turned and shifted a little; the noise has sources of its own.
"""

from dataclasses import dataclass

import numpy as np

from neuroimagen.data_shards.simulator.random_streams import GROUP_SEED, STREAM_HEAD, random_stream

MONTAGE = "biosemi128"
NUM_LAYOUT, NUM_EVOKED = 9, 3
"""Sources that respond to the layout of an image, and to any image (P1, N1, P3)."""
NOISE_SHARES = {"background": 0.60, "alpha": 0.20, "line": 0.05, "amplifier": 0.15}
"""How the power of the noise is divided."""
NUM_BACKGROUND, NUM_ALPHA, NUM_LINE = 64, 6, 2
NUM_NOISE = NUM_BACKGROUND + NUM_ALPHA + NUM_LINE


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What S heads of a study do to K evoked sources and to the noise, at C electrodes and F frequencies."""

    topographies: np.ndarray
    """float64 [S, C, K], average reference, unit mean square over subjects and electrodes."""
    latencies_ms: np.ndarray
    """float64 [S, K]: the subject's delay of each source."""
    noise_mixing: np.ndarray
    """float64 [S, C, NUM_NOISE]: topographies of background, alpha and line noise, unit mean square over electrodes."""
    noise_power: np.ndarray
    """float64 [S, NUM_NOISE, F]: variance of each noise source at each frequency, as NOISE_SHARES divides it."""


def sphere_potential(electrodes: np.ndarray, position: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Potential of a current dipole in a homogeneous conducting sphere of radius 1, at points of its surface.

    Mosher, Leahy & Lewis (1999), "EEG and MEG: forward solutions for inverse methods", the single shell, times 4πσ.

    Args:
        electrodes: [n, 3], on the unit sphere.
        position: [3], inside it, not its centre.
        moment: [3].

    Returns:
        Potentials, float64 [n].
    """
    difference = electrodes - position
    distance = np.linalg.norm(difference, axis=1)
    radial = electrodes @ position
    square = position @ position
    c1 = (2 * (difference @ position) / distance**3 + 1 / distance - 1) / square
    c2 = (2 / distance**3 + (distance + 1) / (distance * (distance + 1 - radial))) / square
    return (c1 - c2 * radial) * (moment @ position) + c2 * square * (electrodes @ moment)


def montage() -> tuple[list[str], np.ndarray]:
    """Names of the 128 electrodes and their positions on the unit sphere, float64 [128, 3] (x right, y front, z up)."""
    import mne

    positions = mne.channels.make_standard_montage(MONTAGE).get_positions()["ch_pos"]
    points = np.array(list(positions.values()))
    return list(positions), points / np.linalg.norm(points, axis=1, keepdims=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cortex_dipoles(rng: np.random.Generator, count: int, centre: np.ndarray, spread: float) -> np.ndarray:
    """Dipoles [count, 6] (place, direction) under the scalp within about `spread` of `centre`."""
    places = _unit(centre + spread * rng.standard_normal((count, 3)))
    places[:, 2] = np.abs(places[:, 2] + 0.2) - 0.2  # above the ears, where electrodes are
    directions = _unit(places + 0.7 * rng.standard_normal((count, 3)))  # perpendicular to the cortex, roughly
    return np.concatenate([_unit(places) * rng.uniform(0.70, 0.84, (count, 1)), directions], axis=1)


def random_turn(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """A random rotation [3, 3] by an angle of about `degrees`."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.radians(degrees) * rng.standard_normal(3) / np.sqrt(3)).as_matrix()


def topographies_of(electrodes: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
    """Potentials of dipoles [n, 6] at the electrodes, average reference: [channels, n]."""
    potentials = np.stack([sphere_potential(electrodes, d[:3], d[3:]) for d in dipoles], axis=1)
    return potentials - potentials.mean(0)


def draw_heads(
    electrodes: np.ndarray,
    *,
    seed: int,
    num_subjects: int,
    num_class_sources: int,
    most_class_sources: int,
    frequencies_hz: np.ndarray,
) -> Heads:
    """Draw the heads of a study: the group's sources, then each subject's own departures from them.

    electrodes: float64 [C, 3]. `most_class_sources`: how many class sources the largest study has; a smaller one has
    the first of them. Sources are ordered class, layout, evoked.
    """
    group = random_stream(GROUP_SEED, STREAM_HEAD)
    back, everywhere = np.array([0.0, -0.7, 0.4]), np.array([0.0, 0.0, 0.3])
    sources = np.concatenate(
        [
            cortex_dipoles(group, most_class_sources, back, 0.6)[:num_class_sources],
            cortex_dipoles(group, NUM_LAYOUT, back, 0.45),
            cortex_dipoles(group, NUM_EVOKED, back, 0.2),
        ]
    )
    background = cortex_dipoles(group, NUM_BACKGROUND, everywhere, 2.0)
    alpha = cortex_dipoles(group, NUM_ALPHA, back, 0.3)
    line = group.standard_normal((NUM_LINE, 3))
    topographies, latencies, mixing, power = [], [], [], []
    shares = [NOISE_SHARES["background"] / NUM_BACKGROUND, NOISE_SHARES["alpha"] / NUM_ALPHA]
    for subject in range(num_subjects):
        rng = random_stream(seed, STREAM_HEAD, subject + 1)
        turned = np.kron(np.eye(2), random_turn(rng, 6.0))  # the cap's position differs between subjects
        own = sources @ turned.T
        for dipole in own:
            dipole[:3] = random_turn(rng, 2.0) @ dipole[:3]
            dipole[3:] = random_turn(rng, 8.0) @ dipole[3:]
        strength = np.exp(0.1 * rng.standard_normal(len(sources)))
        topographies.append(topographies_of(electrodes, own) * strength)
        latencies.append(5.0 * rng.uniform(-1, 1) + 2.0 * rng.uniform(-1, 1, len(sources)))
        # Unit mean square over the channels, so that NOISE_SHARES are shares of the mean channel's power.
        noise = np.concatenate(
            [
                topographies_of(electrodes, background @ turned.T),
                topographies_of(electrodes, alpha @ turned.T),
                1 + electrodes @ line.T,
            ],
            axis=1,
        )
        mixing.append(noise / np.sqrt(np.mean(noise**2, axis=0)))
        peak = np.exp(-0.5 * (frequencies_hz - rng.uniform(9.0, 11.0)) ** 2)
        power.append(
            np.concatenate(
                [
                    np.tile(shares[0] / frequencies_hz / np.sum(1 / frequencies_hz), (NUM_BACKGROUND, 1)),
                    np.tile(shares[1] * peak / peak.sum(), (NUM_ALPHA, 1)),
                    np.tile(NOISE_SHARES["line"] / NUM_LINE * (frequencies_hz == 50), (NUM_LINE, 1)),
                ]
            )
        )
    stacked = np.stack(topographies)
    return Heads(
        topographies=stacked / np.sqrt(np.mean(stacked**2, axis=(0, 1))),
        latencies_ms=np.stack(latencies),
        noise_mixing=np.stack(mixing),
        noise_power=np.stack(power),
    )
